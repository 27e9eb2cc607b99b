"""Estimates trace training's own step at the model's real size, whatever the number of CPU devices."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
# The paper's model, the small one, and methods whose batch or bookkeeping differs, all at full size.
SCRIPT = """
import jax, runpy
from his4mae_jax.config import get_default
from his4mae_jax.report import estimate

paper, small = (runpy.run_path("configs/" + name + ".py")["get_config"]() for name in ("openorganelle", "demo"))
vit, vae = get_default(), get_default()
vit.method, vit.supervised.classes = "vit", 4
vae.method = "vae"
for config in (paper, small, vit, vae):
    step, create, batch = estimate.measured_step(config)
    jax.eval_shape(step, jax.eval_shape(create), batch, 1)
    print(jax.device_count(), config.method, len(batch["crop"]))
"""


@pytest.mark.parametrize(
    ("devices", "images"), [(1, (32, 64)), pytest.param(2, (64, 64), marks=pytest.mark.slow), (8, (256, 64))]
)
def test_the_measured_step_is_traced_for_any_number_of_cpu_devices(devices, images):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert ended.returncode == 0, ended.stderr
    full, small = images
    methods = (("his4mae", full), ("his4mae", small), ("vit", full), ("vae", full))
    assert ended.stdout.splitlines() == [f"{devices} {method} {count}" for method, count in methods]
