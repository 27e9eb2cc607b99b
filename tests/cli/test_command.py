"""The command line: subcommands, help, misspelt words."""

import json
import re
import subprocess
import sys

import pytest

import his4mae_jax
from his4mae_jax import main as flags
from his4mae_jax.cli import command, config_file
from his4mae_jax.cli.stages import MODES
from his4mae_jax.errors import UserError


@pytest.fixture
def runs(monkeypatch):
    """The (config, workdir, mode) of runs that would have begun."""
    begun = []
    monkeypatch.setattr("his4mae_jax.cli.arguments.run_in_process", lambda *args: begun.append(args))
    return begun


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_a_subcommand(mode, runs):
    command.parse([mode, "--config", "demo", "--workdir", "runs/x", "--config.train.steps=7"]).run()
    flags.parse([f"--mode={mode}", "--config=configs/demo.py", "--workdir=runs/x", "--config.train.steps", "7"]).run()
    (one, one_workdir, one_mode), (other, other_workdir, other_mode) = runs
    assert one == other and one.train.steps == 7 and one.data.source == "phantom"
    assert (one_workdir, one_mode) == (other_workdir, other_mode) == ("runs/x", mode)


def test_flags_without_a_mode_run_all(runs):
    flags.parse(["--config=configs/demo.py", "--workdir=runs/x"]).run()
    assert runs[0][2] == "all"


def test_fetching_needs_no_workdir(runs):
    assert command.parse(["fetch", "--config=betaseg"]).path == "data/betaseg"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("trian --config=demo", ("'trian'", "did you mean train?")),
        ("fly", ("'fly'", "init, inspect")),
        ("train --wokdir=x", ("--wokdir=x", "did you mean --workdir?", "his4mae train --help")),
        ("export --workdir=nowhere", ("nowhere/config.json: no such file", "train in this workdir first")),
        ("export", ("--config=CONFIG and --workdir=FOLDER are needed",)),
        ("train --config=demo", ("--workdir=FOLDER is needed", "his4mae train --help")),
        ("train", ("--config=CONFIG and --workdir=FOLDER are needed",)),
        ("train --config=demo --workdir=x extra", ("'extra'", "--config.<key>=<value>")),
        ("train --config=demo --workdir=x --config.train.stpes=3", ("did you mean --config.train.steps?",)),
        ("train --config=demo --workdir=x --config.train.steps=many", ("train.steps", "many")),
        ("train --config=dmeo --workdir=x", ("config dmeo", "did you mean demo?", "betaseg")),
        ("settings lr --config.train.steps=3", ("--config.train.steps=3",)),
        ("settings qwxyz", ("qwxyz",)),
        ("init", ("VOLUME", "his4mae init --help")),
        ("init x.tif --voxel-size=8,4", ("--voxel-size=8,4", "--voxel-size=8,4,4")),
        ("init x.tif --voxel-size=-1", ("--voxel-size=-1",)),
    ],
)  # fmt: skip
def test_bad_words_are_one_line_that_helps(line, words):
    with pytest.raises(UserError) as caught:
        command.parse(line.split()).run()
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def printed(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        command.parse(argv)
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_lists_commands_and_shipped_configs(capsys):
    text = printed(["--help"], capsys)
    assert all(re.search(rf"^    {name} +\w", text, re.MULTILINE) for name in command.SUBCOMMANDS)
    assert "compare/table3" in text and max(map(len, text.splitlines())) < 200
    assert printed([], capsys) == text


@pytest.mark.parametrize("name", command.SUBCOMMANDS)
def test_examples_of_a_subcommand_can_be_typed(name, capsys, runs, monkeypatch, tmp_path):
    """Every example in the help is understood; in runs/demo the demo was trained."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "config.json").write_text(json.dumps(config_file.load("demo").to_dict()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("his4mae_jax.cli.new_config.init", lambda *args: None)
    text = printed([name, "--help"], capsys)
    examples = re.findall(r"^  his4mae (.+)$", text, re.MULTILINE)
    assert examples and all(example.split()[0] == name for example in examples)
    for example in examples:
        command.parse(example.split()).run()


def test_settings_are_listed(capsys):
    command.parse(["settings"]).run()
    every = capsys.readouterr().out
    command.parse(["settings", "steps_per_call"]).run()
    some = capsys.readouterr().out
    assert "train.steps_per_call" in some and "model.depth" not in some and len(some) < len(every)
    assert "model.depth" in every and "compare.rows" in every


def test_the_package_runs_as_the_command():
    for version in (("-m", "his4mae_jax", "--version"),):
        done = subprocess.run([sys.executable, *version], capture_output=True, text=True)
        assert done.stdout == f"his4mae {his4mae_jax.__version__}\n" and done.returncode == 0
    done = subprocess.run([sys.executable, "-m", "his4mae_jax", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: his4mae has no command 'trian'")


def test_a_stage_that_comes_too_early_names_the_subcommand_that_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("his4mae_jax.cli.process.preemption.install", lambda: None)
    words = ["segment", "--config=demo", f"--workdir={tmp_path}"]
    monkeypatch.setattr("his4mae_jax.cli.stages.make_phantoms", lambda *args: None)
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and "his4mae train" in error and "--mode" not in error


def test_the_command_and_comparisons_start_without_what_only_a_run_needs():
    code = "import sys, his4mae_jax.cli.command, his4mae_jax.compare.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "tensorstore", "scipy", "matplotlib"} & set(done.stdout.split())
