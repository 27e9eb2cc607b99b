"""The script for GPU machines: it unpacks missing wheels, runs every part, and reports failures."""

import os
import pathlib
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_session.sh"

# Replaces the machine's Python: it lacks two modules and fails in one part.
PYTHON = """#!/bin/sh
case "$*" in
    -) echo "clu ml_collections" ;;
    -m\\ zipfile*) exec {python} "$@" ;;
    *segment_throughput*zyx*) exit 3 ;;
    *) echo "ran $*" ;;
esac
"""


def test_parts_run_after_one_that_fails(tmp_path):
    python, wheels, out = tmp_path / "python", tmp_path / "wheels", tmp_path / "out"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    wheels.mkdir()
    for name in ("clu-0.0.12", "ml_collections-1.1.0"):
        with zipfile.ZipFile(wheels / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name.split('-')[0]}/__init__.py", "")
    environment = {**os.environ, "PYTHON": str(python)}
    done = subprocess.run(
        ["bash", SCRIPT, out, wheels], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "taken from wheels: clu-0.0.12" in done.stdout and "ml_collections-1.1.0" in done.stdout
    assert done.stdout.splitlines()[-1] == "failed: segment_zyx (exit 3)"
    logs = {path.stem for path in out.glob("*.log")}
    assert logs == {"machine", "check", "train", "train_in_parts", "profile", "segment", "segment_zyx", "growth"}
    assert "--dtype bfloat16" in (out / "train.log").read_text()


def test_every_part_is_an_existing_script_with_its_options():
    text = SCRIPT.read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.startswith("part ") and "benchmarks/" in line]
    assert len(lines) == 7
    assert sum(int(words[2]) for words in lines) < 600  # with the machine's own 60 s at the very worst
    for words in lines:
        script = ROOT / words[4].strip('"')
        source = script.read_text()
        if "add_json_option(parser)" in source:
            source += (script.parent / "reporting.py").read_text()
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, f"{script.name} has no {option}"
