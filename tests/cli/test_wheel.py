"""The wheel in a fresh environment, far from any clone."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv

import pytest
from outputs import outputs

from his4mae_jax import __version__

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = ("benchmarks", "configs", "docs", "his4mae_jax", "launch", "tests")  # folders, beside the files at the top


def run(*args, cwd, **env):
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(args, cwd=cwd, env={**own, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist, built from a copy of the repository so that the clone stays clean."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, source)
    for kind in ("wheel", "sdist"):
        code = f"import sys, setuptools.build_meta as build; build.build_{kind}(sys.argv[1])"
        run(sys.executable, "-c", code, folder, cwd=source)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Function that runs a program of an environment in which the wheel is installed; dependencies are this one's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = pathlib.Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).stdout.strip()
    )
    # A path behind the environment's own, whose .pth files are not read: an editable installation there stays unseen.
    pathlib.Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = built.glob("*.whl")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=folder,
    )

    def program(name, *args):
        return run(folder / "venv" / "bin" / name, *args, cwd=folder)

    program.folder = folder
    return program


def test_the_command_and_the_package_are_those_of_the_wheel(installed):
    assert installed("his4mae", "--version").stdout == f"his4mae {__version__}\n"
    assert installed("python", "-m", "his4mae_jax", "--version").stdout == f"his4mae {__version__}\n"
    code = "import his4mae_jax, his4mae_jax.cli.config_file as c; print(his4mae_jax.__file__); print(c.SHIPPED)"
    for line in installed("python", "-c", code).stdout.splitlines():
        assert pathlib.Path(line).is_relative_to(installed.folder)


def test_settings_are_listed(installed):
    listed = installed("his4mae", "settings", "lr").stdout
    assert "train.lr" in listed and "0.0005" in listed


def test_shipped_configs_are_found_by_name(installed):
    names = sorted(p.relative_to(ROOT / "configs").with_suffix("").as_posix() for p in (ROOT / "configs").rglob("*.py"))
    code = "from his4mae_jax.cli import config_file as c; print(c.shipped())"
    assert installed("python", "-c", code).stdout.strip() == str(names)
    code = "from his4mae_jax.cli import config_file as c; [c.load(n) for n in c.shipped() if n != 'saved']"
    installed("python", "-c", code)


def test_the_demo_runs_from_beginning_to_end(installed):
    """A tiny one, and another from what it saved."""
    tiny = ("--config.data.phantom.size=64", "--config.data.phantom.cells=1", "--config.train.steps=4",
            "--config.train.batch_size=4", "--config.evaluate.curve_box=0",
            "--config.evaluate.baselines=()")  # fmt: skip
    done = installed("his4mae", "all", "--config", "demo", "--workdir", "run", *tiny)
    assert "one-to-one" in done.stdout and "figure:" in done.stderr
    assert json.loads((outputs(installed.folder / "run") / "metrics.json").read_text())["clusters"] == 4
    done = installed("his4mae", "train", "--config=saved:run/config.json", "--workdir=run")
    assert "all 4 steps are done" in done.stderr


def test_the_sdist_is_the_repository(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", "requirements.txt",
                 "configs/demo.py", "configs/compare/table3.py", "his4mae_jax/cli/command.py", "launch/local.sh",
                 "docs/method.md", "mkdocs.yml", "tests/cli/test_wheel.py", "benchmarks/growth.py"):  # fmt: skip
        assert path in names
    assert not [name for name in names if name.startswith("runs/") or name.endswith(".pyc")]
