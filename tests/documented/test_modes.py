"""Every mode of every shipped config at its real model size, on one CPU device, on the default ones and on eight.

What runs is the command's own code; programs are traced, not executed (traced_runs.py).
"""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

import pytest

from his4mae_jax.cli import config_file

SCRIPT = pathlib.Path(__file__).with_name("traced_runs.py")
# Configs of one process, whose models choose the same number of devices by themselves: one for small ones.
SMALL, LARGE = ("demo", "epfl_hippocampus", "compare/table3"), ("openorganelle", "betaseg", "betaseg_best")
TOGETHER = (("demo", "epfl_hippocampus"), LARGE)
SLOW = ("compare/epfl", "compare/ablations", "compare/codebook_size", "compare/long", "compare/paper")
DEVICES = ("1", "default", "8")
FRESH = ("demo", "betaseg")  # as in traced_runs.py
MODES = ("inspect", "train", "segment", "evaluate", "all from saved")


def _modes(config, devices):
    if config.startswith("compare/"):
        return ("compare",)
    return (*MODES, "all") if config in FRESH and devices == "default" else MODES


def _is_slow(config, devices):
    """Several devices are the default of large models; one and eight are for `-m slow`, as long comparisons are."""
    return config in SLOW or (devices != "default" and config not in ("demo", "epfl_hippocampus"))


CASES = [
    pytest.param(config, mode, devices, marks=pytest.mark.slow if _is_slow(config, devices) else ())
    for devices in DEVICES
    for config in (*SMALL, *LARGE, *SLOW)
    for mode in _modes(config, devices)
    if devices != "1" or config not in SMALL  # the default
]


def _group(config, devices):
    """The configs that one process traces together, and its devices."""
    return next((names for names in TOGETHER if config in names), (config,)), devices


def _trace(folder, configs, devices):
    """Rows of the process that traces some configs, by config and mode."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"} | {"JAX_PLATFORMS": "cpu"}
    if devices != "default":
        environment["JAX_NUM_CPU_DEVICES"] = devices
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *configs], env=environment, capture_output=True, text=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0 and rows, done.stderr[-3000:]
    return {(row["config"], row["mode"]): row for row in rows}


@pytest.fixture(scope="module")
def traced(request, tmp_path_factory):
    """Function `(config, devices)` to the rows of the process that traced the config; two processes run at a time."""
    cases = [
        item.callspec.params
        for item in request.session.items
        if item.fspath == request.fspath and "callspec" in vars(item)
    ]
    groups = dict.fromkeys(_group(case["config"], case["devices"]) for case in cases)
    pool = concurrent.futures.ThreadPoolExecutor(2)
    traces = {group: pool.submit(_trace, tmp_path_factory.mktemp("traced"), *group) for group in groups}
    yield lambda config, devices: traces[_group(config, devices)].result()
    pool.shutdown(cancel_futures=True)


def test_every_shipped_config_has_a_case():
    assert set(config_file.shipped()) == {*SMALL, *LARGE, *SLOW, "saved"}  # saved: what each run left, below


@pytest.mark.parametrize(("config", "mode", "devices"), CASES)
def test_no_documented_command_crashes(traced, config, mode, devices):
    row = traced(config, devices)[config, mode]
    assert not row["error"], row["error"]
    expected = {"default": 1 if config in SMALL else row["devices"]}.get(devices) or int(devices)
    assert row["devices"] == expected
