r"""Label-free organelle segmentation in volume electron microscopy (HiS4MAE).

    python -m his4mae_jax.main --config=configs/betaseg.py --workdir=runs/betaseg

trains, segments, evaluates and draws the figures; --mode picks one stage. Settings are
overridden as --config.train.steps=1000 (all of them: his4mae_jax/config.py).
"""

import logging
import os
import pathlib
import sys
import traceback

from absl import app, flags
from ml_collections import config_flags

from his4mae_jax import config as configs
from his4mae_jax.errors import UserError, friendly_memory_error
from his4mae_jax.training.run import preemption

MODES = ("train", "segment", "evaluate", "all", "compare", "fetch", "inspect")
_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, such as configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, labels, metrics, figures.")
_MODE = flags.DEFINE_enum("mode", "all", MODES, "Stage to run; all runs them one after the other.")
# Settings that may change between stages of one run; all others must stay as they were trained.
FREE = ("segment.", "evaluate.", "compare.", "train.log_every", "train.keep_checkpoints", "train.steps_per_call",
        "train.require_accelerator", "data.workers", "data.cache_mb", "data.sampler", "data.device_fraction",
        "data.root", "data.test", "data.test_labels", "data.binary_labels", "data.class_names")  # fmt: skip
ALONE = ("compare", "fetch", "inspect")  # modes that are not shared among processes
_process = None  # which of several that share the run this one is


def log(message):
    """Say something on the terminal; of several processes the first one does."""
    if not _process:
        print(message, file=sys.stderr, flush=True)


def check_workdir(workdir, config):
    """A workdir belongs to one training config; raise `UserError` naming what differs."""
    from his4mae_jax.training.run.checkpoints import read_config

    saved = read_config(workdir)
    if saved is None:
        return
    saved, now = configs.flat_settings(saved), configs.flat_settings(config.to_dict())
    for key, value in now.items():
        if not key.startswith(FREE) and saved[key] != value:
            raise UserError(
                f"{workdir}: holds a run of another config ({key} was {saved[key]!r}, now {value!r}); use another "
                "--workdir, or the config of that run"
            )


def run(config, workdir, mode):
    """Run the stages of `mode` in order. Raises `UserError` for bad input."""
    configs.validate(config)
    if mode in ALONE:
        check_alone(mode)
    if mode == "compare":
        return compare(config, workdir)
    if mode == "fetch":
        from his4mae_jax.data.known.fetch import fetch

        return fetch(config, log)
    if config.method in configs.SUPERVISED and not config.supervised.classes:
        from his4mae_jax.data import datasets

        config.supervised.classes = len(datasets.class_names(config))
    if pathlib.Path(workdir).exists() and not pathlib.Path(workdir).is_dir():
        raise UserError(f"{workdir}: a file is in the way; give --workdir a folder")
    check_workdir(workdir, config)

    # Imported late: a typo in a flag is told before JAX has started.
    from his4mae_jax.data import datasets
    from his4mae_jax.output import label_volume
    from his4mae_jax.training.devices import distributed
    from his4mae_jax.training.run import loop

    if config.data.source == "phantom":
        if distributed.is_main():
            datasets.make_phantoms(config, workdir, log)
        distributed.barrier("phantoms")
    if mode == "inspect":
        from his4mae_jax.report.inspect import inspect

        inspect(config, workdir, log)
    if mode in ("train", "all"):
        if mode == "all":  # a bad test volume is told now, not after hours of training
            datasets.target(config, workdir, need_labels=False)
        volumes = datasets.training_volumes(config, workdir, log)
        labels = datasets.training_labels(config, workdir) if config.method in configs.SUPERVISED else None
        loop.train(config, volumes, workdir, log, labels)
    if mode == "segment" or mode == "all":
        label_volume.need_checkpoint(workdir)
        label_volume.segment(config, datasets.target(config, workdir, need_labels=False, log=log), workdir, log)
    if (mode == "evaluate" or mode == "all") and distributed.is_main():  # the others wait at the end
        score(config, datasets.target(config, workdir, need_labels=mode == "evaluate"), workdir)


def join():
    """Find the other processes of the run, where a launcher started several."""
    global _process
    from his4mae_jax.training.devices import distributed

    how = distributed.initialise()
    if how:
        import jax

        _process = jax.process_index()
        if _process:
            os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported: no bars from the others
        log(f"processes: {jax.process_count()} of {jax.local_device_count()} devices each, found by {how}")


def check_alone(mode):
    """Raise `UserError` where a launcher started several processes for a mode that is for one."""
    from his4mae_jax.training.devices import distributed

    if distributed.detect(os.environ, has_tpu=False):
        raise UserError(f"--mode={mode} is for one process, and the launcher started several; start it without one")


def compare(config, workdir):
    """Train and score every row of `config.compare`, write the tables, draw the figures asked for."""
    from his4mae_jax.compare import figures as comparison
    from his4mae_jax.compare import run as runner

    comparison.check(config)  # what a figure lacks is told before the first training
    failed = None
    try:
        runner.run(config, workdir, log)
    except UserError as error:  # a row that failed does not keep the others from being drawn
        if not pathlib.Path(workdir).is_dir():
            raise
        failed = error
    for path in comparison.draw(config, workdir, log):
        log(f"figure: {path}")
    if failed:
        raise failed


def score(config, test, workdir):
    """Score what is segmented (if there are labels) and draw the figures."""
    from his4mae_jax.evaluation import evaluate, tables
    from his4mae_jax.report import page

    metrics, assignment = None, None
    if test.labels is not None:
        metrics, assignment = evaluate.evaluate(config, test, workdir, log)
        tables.write_metrics(metrics, workdir)
        print(tables.terminal_table(metrics), flush=True)
    else:
        log("evaluate: no labels, so no scores; the figures show the clusters")
    for path in page.draw(config, test, metrics, assignment, workdir):
        log(f"figure: {path}")


def main(argv):
    if len(argv) > 1:
        raise UserError(f"unknown argument {argv[1]!r}; settings are given as --config.<key>=<value>")
    if _CONFIG.value is None or (_WORKDIR.value is None and _MODE.value != "fetch"):
        raise UserError("--config=FILE and --workdir=FOLDER are needed; see --help")
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax tells every save in many lines
    configs.validate(_CONFIG.value)  # before others are waited for
    if _MODE.value not in ALONE:
        join()
    if _MODE.value not in ("fetch", "compare"):  # each run of a comparison does this itself
        from his4mae_jax.training.devices.cpu_devices import share_cores

        share_cores(_CONFIG.value)
    run(_CONFIG.value, _WORKDIR.value, _MODE.value)
    if _process is not None:
        from his4mae_jax.training.devices import distributed

        distributed.shut_down()


def _parse(argv):
    """absl's flags; what it would tell by a traceback becomes one line."""
    app.define_help_flags()
    default = configs.get_default()
    known = set(configs.flat_keys(default))
    for arg in argv[1:]:
        name, _, value = arg.lstrip("-").partition("=")
        if name == "config" and value and not pathlib.Path(value.partition(":")[0]).is_file():
            raise UserError(f"--config={value}: no such file; give a configuration file such as configs/demo.py")
        key = name.removeprefix("config.")
        if name.startswith("config.") and key not in known:
            nearest = configs.nearest_key(key, default)
            hint = f"did you mean --config.{nearest}?" if nearest else "his4mae_jax/config.py lists all keys"
            raise UserError(f"--config.{key}: there is no such key; {hint}")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(f"{error}; see --help") from error
    except (TypeError, ValueError, AttributeError, KeyError, SyntaxError, ImportError) as error:
        raise UserError(f"--config={_named(argv)}: cannot be loaded ({type(error).__name__}: {error})") from error


def _named(argv):
    return next((a.partition("=")[2] for a in argv if a.startswith(("--config=", "-config="))), "?")


def _end(status, message):
    """Say why, and end this process; one of several must not wait for the others."""
    if _process is None:
        print(message, file=sys.stderr, flush=True)
        sys.exit(status)
    from his4mae_jax.training.devices import distributed

    print(f"{message} (process {_process})", file=sys.stderr, flush=True)
    distributed.leave(status)


def _stop(why):
    """End this process as one that is to be started again."""
    preemption.ignore()
    if why.together and _process is not None:
        from his4mae_jax.training.devices import distributed

        log(why)
        distributed.shut_down()
        sys.exit(preemption.EXIT_STATUS)
    _end(preemption.EXIT_STATUS, f"{why}; run the same command again to go on")


def cli():
    """Entry point: exit status 0, or 2 with one line on bad input, or 75 when told to stop by a signal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    preemption.install()
    try:
        main(_parse(sys.argv))
    except UserError as error:
        _end(2, f"error: {error}")
    except Exception as error:
        from his4mae_jax.files import friendly_io_error

        friendly = friendly_io_error(error, flags.FLAGS.workdir) or friendly_memory_error(error)
        if friendly is not None:
            _end(2, f"error: {friendly}")
        _end(1, traceback.format_exc())
    except preemption.Preempted as why:
        _stop(why)
    except KeyboardInterrupt:
        _end(130, "interrupted; run the same command again to go on from the last checkpoint")


if __name__ == "__main__":
    cli()
