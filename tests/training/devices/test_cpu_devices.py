"""A CPU's cores as devices: as many as take equal parts of a batch, where it is worth it."""

import os
import subprocess
import sys

import pytest

from his4mae_jax.config import get_default
from his4mae_jax.training.devices import cpu_devices as cores


@pytest.mark.parametrize(
    ("batch", "number", "devices"), [(256, 2, 2), (256, 64, 8), (30, 8, 6), (31, 2, 1), (7, 64, 7), (32, 1, 1)]
)
def test_devices_share_a_batch_equally(batch, number, devices):
    config = get_default()
    config.train.batch_size = batch
    assert cores.cpu_devices(config, number) == devices


def test_a_small_model_stays_on_one(tiny):
    assert cores.cpu_devices(tiny, 8) == 1


def count(**environment):
    code = (
        "import jax; from his4mae_jax.config import get_default\n"
        "from his4mae_jax.training.devices.cpu_devices import share_cores\n"
        "c = get_default(); c.train.batch_size = 6\n"
        "import os; os.sched_getaffinity = lambda pid: {1, 2, 3}\n"
        "print(share_cores(c), jax.device_count(), share_cores(c))"
    )
    environment = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout


def test_jax_sees_the_cores_unless_somebody_chose():
    assert count() == "3 3 None\n"
    assert count(JAX_NUM_CPU_DEVICES="2") == "None 2 None\n"
    assert count(XLA_FLAGS="--xla_force_host_platform_device_count=4") == "None 4 None\n"
    assert count(JAX_NUM_PROCESSES="2") == "None 1 None\n"
