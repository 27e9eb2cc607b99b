"""What configuration files import, and that all shipped ones are valid."""

import pathlib
import runpy

import pytest

from his4mae_jax import config as configs

ROOT = pathlib.Path(__file__).parents[1] / "configs"
SHIPPED = sorted({*ROOT.glob("*.py"), *ROOT.glob("compare/*.py")} - {ROOT / "saved.py"})


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_are_valid(path):
    config = runpy.run_path(str(path))["get_config"]()
    configs.validate(config)
    assert config.is_locked and set(configs.flat_keys(config)) == set(configs.flat_keys(configs.get_default()))


def test_shipped_configs_set_their_own_length():
    """The length of the small preset changes no shipped run."""
    steps = {path.stem: configs.total_steps(runpy.run_path(str(path))["get_config"]()) for path in SHIPPED}
    assert steps == {
        "ablations": 2000, "betaseg": 218_750, "betaseg_best": 218_750, "codebook_size": 2000, "demo": 16_000,
        "epfl": 2000, "epfl_hippocampus": 24_000, "long": 218_750, "openorganelle": 218_750, "paper": 218_750,
        "table3": 2000,
    }  # fmt: skip
