"""What the README and the guide name exists: keys, modes, commands, configs, files; their examples are valid."""

import ast
import json
import pathlib
import re
import shlex

import pytest

from his4mae_jax import config as configs
from his4mae_jax import main
from his4mae_jax.cli import command, config_file
from his4mae_jax.cli.stages import MODES
from his4mae_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
GUIDE = (
    "tutorial",
    "library",
    "formats",
    "segmenting",
    "viewing",
    "export",
    "encoders",
    "datasets",
    "comparing",
    "launching",
    "code",
    "index",
)
PAGES = {name: ROOT / name for name in ("README.md", *(f"docs/{page}.md" for page in GUIDE))}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
ALL = "\n".join(TEXTS.values())


def test_the_example_config_is_valid():
    blocks = re.findall(r"```python\n(.*?)```", ALL, re.DOTALL)
    (example,) = (block for block in blocks if "def get_config" in block)
    space = {}
    exec(example, space)
    configs.validate(space["get_config"]())


@pytest.mark.parametrize("name", PAGES)
def test_keys_exist(name):
    keys = set(configs.flat_keys(configs.get_default()))
    sections = "|".join({key.split(".")[0] for key in keys if "." in key})
    files = {"train.jsonl", "segment.json", "segment.partial", "export.json", "probe.npz", "train.lock", "segment.lock"}
    named = set(re.findall(rf"(?:--config\.|`|`c\.)((?:{sections})\.\w+)", TEXTS[name])) - files
    assert named <= keys
    assert named or name in ("README.md", "docs/code.md", "docs/index.md")


def test_modes_are_explained():
    assert set(re.findall(r"--mode=([a-z]+)", ALL)) <= set(MODES)
    assert all(f"| `{mode}` |" in TEXTS["docs/segmenting.md"] for mode in MODES)


def commands():
    """Every `his4mae` command of the documentation and of the configs' docstrings, without its comment.

    In code blocks and docstrings it is a line, which may go on after a backslash; in a sentence it is in backticks.
    """
    docs = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]
    docs += [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    docstrings = [ast.get_docstring(ast.parse(path.read_text())) or "" for path in (ROOT / "configs").rglob("*.py")]
    shown = []
    for text in docs + docstrings:
        text = text.replace("\\\n", " ")
        shown += re.findall(r"^ *((?:his4mae|python -m his4mae_jax\.main) .*)$", text, re.MULTILINE)
        prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        shown += re.findall(r"`([^`]*\b(?:his4mae|python -m\s+his4mae_jax\.main)\s[^`]*--?\w[^`]*)`", prose)
    lines = (re.search(r"(?:his4mae|python -m his4mae_jax\.main) .*", " ".join(text.split())) for text in shown)
    return sorted({line.group().split("`")[0] for line in lines if line})


def parse(words):
    """The command of a line's words, as the process reads it."""
    return command.parse(words[1:]) if words[0] == "his4mae" else main.parse(words[3:])


@pytest.mark.parametrize("line", commands())
def test_commands_can_be_parsed(line, monkeypatch, tmp_path):
    words = shlex.split(line, comments=True)
    if words[1:] == ["--help"] or "--config=CONFIG" in words:
        return
    small = "from his4mae_jax.config import get_small\n\n\ndef get_config():\n    return get_small()\n"
    (tmp_path / "cell_1.py").write_text(small)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "config.json").write_text(json.dumps(config_file.load("demo").to_dict()))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    loaded = []
    monkeypatch.setattr("his4mae_jax.cli.arguments.run_in_process", lambda config, *_: loaded.append(config))
    action = parse(words)
    if any(word.startswith("--config=") for word in words):
        action.run()
        configs.validate(loaded[0])
        with pytest.raises(UserError, match="no such|did you mean|no config"):
            parse([re.sub(r"(--config=\w[\w/]*)", r"\1_x", word) for word in words])


def test_enough_commands_are_shown():
    assert len(commands()) >= 25 and {"all", "init", "inspect", "fetch", "segment", "compare"} <= {
        line.split()[1] for line in commands()
    }
    flags = [line for line in commands() if line.startswith("python -m his4mae_jax.main ")]
    assert any("--config=configs/betaseg.py" in line for line in flags)


def test_configs_and_files_exist():
    shipped = set(config_file.shipped())
    for name in set(re.findall(r"--config=([\w/]+)(?![\w.:/])", ALL)) - {"CONFIG"}:
        assert name in shipped, name
    for name in re.findall(r"`(compare/\w+)` \|", TEXTS["docs/comparing.md"]):
        assert name in shipped, name
    for path in set(re.findall(r"(?:--config=|`)(configs/[\w/]+\.py)", ALL)):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"(?:launch|benchmarks)/\w+\.\w+", ALL):
        assert (ROOT / path).is_file(), path
