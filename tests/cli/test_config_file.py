"""Configs by name and path, overrides, and mistakes in a config file."""

import json
import pathlib

import pytest

from his4mae_jax.cli import config_file
from his4mae_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    """Function: a config file whose get_config has some lines, after the default config in `c`."""

    def config(*lines):
        path = tmp_path / "mine.py"
        head = (
            "from his4mae_jax.config import get_default",
            "",
            "def get_config(argument='none'):",
            "c = get_default()",
        )
        path.write_text("\n".join((*head[:3], *(f"    {line}" for line in (head[3], *lines)))))
        return path

    return config


@pytest.mark.parametrize("name", ["demo", "betaseg", "compare/table3", "openorganelle"])
def test_a_name_and_a_path_are_the_same_config(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert config_file.load(name) == config_file.load(f"configs/{name}.py")
    assert config_file.load(name).is_locked


def test_what_follows_a_colon_is_the_argument(tmp_path):
    assert config_file.load("openorganelle:3").data.test == "openorganelle:jrc_mus-pancreas-3"
    (tmp_path / "config.json").write_text(json.dumps({"train": {"steps": 17}, "evaluate": {"clusters": [4, 5]}}))
    config = config_file.load(f"saved:{tmp_path / 'config.json'}")
    assert config.train.steps == 17 and config.evaluate.clusters == (4, 5)


@pytest.mark.parametrize(("saved", "volumes"), [("", ()), ("cell.tif", ("cell.tif",)), (["a", "b"], ("a", "b"))])
def test_one_volume_may_be_saved_as_a_text(tmp_path, saved, volumes):
    (tmp_path / "config.json").write_text(json.dumps({"segment": {"volume": saved}}))
    assert config_file.load(f"saved:{tmp_path / 'config.json'}").segment.volume == volumes


def test_a_name_that_is_none_lists_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="did you mean betaseg.*compare/table3"):
        config_file.load("betasge")
    with pytest.raises(UserError, match="configs/demo.py: no such file; did you mean demo?"):
        config_file.load("configs/demo.py")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.train.stpes = 4", r"mine.py, line 5: .*train.stpes; did you mean train.steps\?"),
        ("c.train['stpes'] = 4", r"mine.py, line 5: .*stpes; did you mean train.steps\?"),
        ("c.model.detph.x = 4", r"mine.py, line 5: .*model.detph; did you mean model.depth\?"),
        ("1 / 0", r"mine.py, line 5: ZeroDivisionError: division by zero"),
        ("open('/nowhere/at/all')", r"mine.py, line 5: FileNotFoundError"),
        ("import nothing_of_this_name", r"mine.py, line 5: ModuleNotFoundError"),
        ("raise KeyError('steps')", r"mine.py, line 5: KeyError: 'steps'"),
        ("c.train.steps = 'many'", r"mine.py, line 5: .*steps"),
        ("return 3", r"mine.py: give it a function get_config\(\)"),
        ("def", r"mine.py, line 5: SyntaxError"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_line_with_its_place(write, line, message):
    with pytest.raises(UserError, match=message) as caught:
        config_file.load(str(write(line, "return c")))
    assert len(str(caught.value)) < 300 + len(str(write()))


def test_a_file_that_is_no_config_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "notes.txt").write_text("c.train.steps = 4")
    for name in ("empty.py", "notes.txt"):
        with pytest.raises(UserError, match=name):
            config_file.load(str(tmp_path / name))


def test_overrides_have_the_types_of_the_settings(write):
    argv = ["--config.train.steps=12", "--other", "--config.train.lr", "1e-3", "--config.model.cls_token",
            "--noconfig.segment.pyramid", "--config.evaluate.clusters=(4,8)", "--config.data.phantom.seed=-1",
            "--config.data.phantom.cells", "-2", "word"]  # fmt: skip
    rest, overrides = config_file.split_overrides(argv)
    assert rest == ["--other", "word"]
    config = config_file.load(str(write("return c")))
    config_file.override(config, overrides)
    assert (config.train.steps, config.train.lr, config.evaluate.clusters) == (12, 1e-3, (4, 8))
    assert config.model.cls_token is True and config.segment.pyramid is False
    assert (config.data.phantom.seed, config.data.phantom.cells) == (-1, -2)


def test_an_override_of_no_setting_is_refused_before_the_config_is_loaded():
    with pytest.raises(UserError, match=r"--config.segment.strid: .*did you mean --config.segment.stride\?"):
        config_file.split_overrides(["--config.segment.strid=3"])
