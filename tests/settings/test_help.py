import pytest

from his4mae_jax import settings
from his4mae_jax.errors import UserError

FILE = """
from his4mae_jax.config import get_default

def get_config():
    c = get_default()
    {}
    return c
"""


def explained(statement):
    space = {}
    exec(compile(FILE.format(statement), "configs/mine.py", "exec"), space)
    try:
        space["get_config"]()
    except Exception as error:
        return settings.explain_unknown_key(error)
    raise AssertionError("no error")


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ("c.train.stpes = 1", "there is no config key train.stpes; did you mean train.steps?"),
        ("c.train['stpes'] = 1", "there is no config key train.stpes; did you mean train.steps?"),
        ("c.modle.fov = 1", "there is no config key modle; did you mean model?"),
        ("c.seeed = 1", "there is no config key seeed; did you mean seed?"),
        ("c.data.phantom.sise = 1", "there is no config key data.phantom.sise; did you mean data.phantom.size?"),
        ("c.update({'train': {'stpes': 1}})", "there is no config key train.stpes; did you mean train.steps?"),
        ("c.train.lr = 10**400", "config key train.lr is an enormous number, but must be a number from 0 to 10"),
        ("c.train.lr = 'much'", "config key train.lr is 'much', but must be a number from 0 to 10"),
    ],
)
def test_a_mistake_in_a_configuration_file_is_one_line(statement, line):
    assert explained(statement) == f"configs/mine.py, line 6: {line}"


@pytest.mark.parametrize("statement", ["{}['stpes']", "c.train.lr + 'x'", "1 / 0", "print.stpes"])
def test_other_errors_are_not_explained(statement):
    assert explained(statement) is None


def test_settings_are_described_by_word():
    text = settings.describe("Overhang")
    assert text.startswith("segment.overhang = 0 (small: 16)\n    How far") and "Scope: segmentation." in text
    assert "train.lr" not in text
    assert all(f"{key} = " in settings.describe() for key in settings.TABLE)
    with pytest.raises(UserError, match="'stpes'.*train.steps"):
        settings.describe("stpes")
