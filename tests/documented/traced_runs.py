"""Run every mode of every shipped config at its real model size, with each program traced and none executed.

    python traced_runs.py FOLDER CONFIG [CONFIG ...]

`jax.jit` is replaced before the package is imported: a jitted function is traced for its arguments (`eval_shape`, so
that shapes, shardings and `shard_map` specs are checked) and returns random numbers of the right shapes. All else is
as users run it: the command's own stages, on small volumes. Prints a line of JSON for each mode of each config.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import sys
import time
import traceback
import warnings

import flax  # noqa: F401  before jax.jit is replaced: libraries keep the real one
import flax.linen  # noqa: F401
import jax
import jax.experimental.multihost_utils  # noqa: F401
import numpy as np
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import sklearn.cluster  # noqa: F401
from clu import parameter_overview  # noqa: F401

SHAPE = (96, 96, 96)
STEPS = 2  # one before distillation begins and one after
FRESH = ("demo", "betaseg")  # configs whose whole run is also traced in one command, in an empty workdir
_jit, _rng = jax.jit, np.random.default_rng(0)


class Traced:
    """Stands in for a jitted function: traces it for each new set of arguments, and makes its outputs up."""

    def __init__(self, function, **options):
        self._function, self._shardings = _jit(function, **options), options.get("out_shardings")

    def __call__(self, *args, **kwargs):
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, kwargs))):
            return self._function(*args, **kwargs)
        return self._made_up(self._function.eval_shape(*args, **kwargs))

    def _made_up(self, like):
        outputs = jax.tree.map(_random, like)
        one = isinstance(self._shardings, jax.sharding.Sharding)
        return jax.device_put(outputs, self._shardings) if one else jax.device_put(outputs)

    def eval_shape(self, *args, **kwargs):
        return self._function.eval_shape(*args, **kwargs)

    def lower(self, *args, **kwargs):
        self._function.trace(*args, **kwargs)
        return self

    def compile(self):
        return self

    def memory_analysis(self):
        return None


def _random(like):
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), like.shape) if like.shape else jax.random.key(0)
    if jax.numpy.issubdtype(like.dtype, np.floating):
        return _rng.random(like.shape, np.float32).astype(like.dtype)
    # Flags are True: a training whose state is not finite would end.
    return np.full(like.shape, like.dtype == bool, like.dtype)


def traced_jit(function=None, **options):
    return Traced(function, **options) if function is not None else lambda f: Traced(f, **options)


jax.jit = traced_jit

from his4mae_jax.cli import config_file, stages  # noqa: E402
from his4mae_jax.compare import process  # noqa: E402
from his4mae_jax.data.ome_zarr.write import create  # noqa: E402
from his4mae_jax.figures import style  # noqa: E402
from his4mae_jax.training.devices.cpu_devices import share_cores  # noqa: E402


def volumes(folder):
    """An image with structure and its ground truth of four classes, as OME-Zarr at 16 nm."""
    paths = folder / "image.ome.zarr", folder / "labels.ome.zarr"
    labels = np.add.outer(np.add.outer(*[np.arange(n) // 24 for n in SHAPE[:2]]), np.arange(SHAPE[2]) // 24) % 4
    labels = labels.astype(np.uint8)
    image = (50 * labels + _rng.integers(1, 50, SHAPE)).astype(np.uint8)
    for path, array in zip(paths, (image, labels), strict=True):
        create(path, SHAPE, array.dtype, 16.0).write(array).result()
    return tuple(map(str, paths))


def on_small_volumes(config, image, labels):
    """The config with its model as it is, on a volume that is here, for two steps; with labels if it names some."""
    labelled = config.data.source != "files" or bool(config.data.test_labels)
    if config.data.source != "phantom":
        config.data.source, config.data.train, config.data.test = "files", (image,), image
        if labelled:
            config.data.train_labels, config.data.test_labels = (labels,), labels
        config.data.class_names = ("a", "b") if config.data.binary_labels else ("a", "b", "c", "d")
        config.data.file_voxel_size_nm = ()
        config.data.root = ""
    if config.compare.rows:  # supervised rows may not learn from what scores them
        config.data.train_labels = (labels + "[0:96, 0:96, 0:96]",)
    config.data.phantom.size, config.data.phantom.cells = 96, 1
    config.train.steps, config.train.log_every, config.train.keep_checkpoints = STEPS, 1, 1
    config.evaluate.baselines, config.compare.seeds = (), (0,)
    # K-means is not traced but run, on features that are made up: it would look long for clusters that are not there.
    config.segment.fit_least, config.segment.fit_voxels, config.segment.restarts = 0, 2000, 1
    return config


@dataclasses.dataclass
class Report:
    config: str

    @contextlib.contextmanager
    def mode(self, name):
        """Reports how a mode ended; a page of the run that could not be written is an error too."""
        began, error, said = time.perf_counter(), "", io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                yield
            error = "".join(line for line in said.getvalue().splitlines(True) if line.startswith("warning: the page"))
        except Exception:
            error = traceback.format_exc()
        seconds = time.perf_counter() - began
        line = {"config": self.config, "mode": name, "devices": jax.device_count(), "error": error, "seconds": seconds}
        print(json.dumps(line), flush=True)


def _no_picture(figure, path):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_bytes(b"")


def run_row(args, log_path):
    """A row of a comparison, in this process."""
    folder = pathlib.Path(log_path).parent
    config = config_file.load(args[3].partition("=")[2])
    stages.run(config, folder, "all")
    return process.Usage(0, 1.0, 100.0, False)


def main(folder, *configs):
    warnings.simplefilter("ignore")  # k-means on random features does not converge
    style.save = _no_picture
    process.execute, process.device_name = run_row, lambda: "traced"
    folder = pathlib.Path(folder)
    image, labels = volumes(folder)
    for name in configs:
        report, workdir = Report(name), folder / "run"
        config = on_small_volumes(config_file.load(name), image, labels)
        # Pages of one config, traced once: those of a large model take as long to compile as its training.
        config.report.after_stages = name == "demo" and "JAX_NUM_CPU_DEVICES" not in os.environ
        share_cores(config)
        if config.compare.rows:
            with report.mode("compare"):
                stages.run(config.copy_and_resolve_references(), workdir, "compare")
        else:
            for mode in ("inspect", "train", "segment", "evaluate"):
                with report.mode(mode):
                    stages.run(config.copy_and_resolve_references(), workdir, mode)
            saved = config_file.load(f"saved:{workdir / 'config.json'}")
            with report.mode("all from saved"):
                stages.run(saved, workdir, "all")
            if name in FRESH and "JAX_NUM_CPU_DEVICES" not in os.environ:  # once is enough
                shutil.rmtree(workdir)
                with report.mode("all"):
                    stages.run(config.copy_and_resolve_references(), workdir, "all")
        shutil.rmtree(workdir, ignore_errors=True)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    main(*sys.argv[1:])
