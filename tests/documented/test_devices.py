"""Commands that are executed, not traced: the paper's model on a small volume, a batch that devices cannot share."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tifffile

ROOT = pathlib.Path(__file__).parents[2]


def _run(folder, shape, mode, config, *flags, **environment):
    rng = np.random.default_rng(0)
    tifffile.imwrite(folder / "cell.tif", rng.integers(1, 250, shape, np.uint8), photometric="minisblack")
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    path = str(folder / "cell.tif")
    volumes = [
        "--config.data.source=files", f"--config.data.train=('{path}',)", f"--config.data.test={path}",
        "--config.data.test_labels=", "--config.data.file_voxel_size_nm=(16.0,16.0,16.0)",
    ]  # fmt: skip
    return subprocess.run(
        [
            sys.executable, "-m", "his4mae_jax.main", f"--config=configs/{config}.py", f"--mode={mode}",
            f"--workdir={folder / 'run'}", *volumes, *flags,
        ],
        cwd=ROOT, env=inherited | {"JAX_PLATFORMS": "cpu"} | environment, capture_output=True, text=True,
    )  # fmt: skip


def test_a_batch_that_devices_cannot_share_is_one_line(tmp_path):
    done = _run(
        tmp_path, (24, 48, 48), "train", "demo", "--config.train.batch_size=12", JAX_NUM_CPU_DEVICES="8"
    )  # fmt: skip
    errors = [line for line in done.stderr.splitlines() if "batch_size" in line]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert "train.batch_size is 12: make it a multiple of the 8 devices" in errors[0]


@pytest.mark.slow
def test_inspect_measures_the_papers_model(tmp_path):
    done = _run(tmp_path, (20, 160, 160), "inspect", "openorganelle", "--config.data.axes=z", "--config.segment.axes=z")
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"inspect.json"} < {p.name for p in (tmp_path / "run" / "inspect").iterdir()}
