"""Volumes of every format, damaged at random: refused in one line or read, never a traceback, a crash or a hang."""

import collections
import subprocess
import sys

import corrupted
import pytest

SECONDS = 60  # for one damaged volume, at most


def tried(name, count, folder):
    """What happened to so many damaged volumes, as (damage, outcome)."""
    out = []
    while len(out) < count:
        arguments = [corrupted.__file__, name, str(len(out)), str(count - len(out)), str(folder / str(len(out)))]
        try:
            done = subprocess.run(
                [sys.executable, *arguments], capture_output=True, text=True, timeout=SECONDS + 2 * count
            )
            said, ended = done.stdout, f"error: the process ended with {done.returncode}: {done.stderr[-500:]}"
        except subprocess.TimeoutExpired as hung:
            said, ended = (hung.stdout or b"").decode(), "error: hangs"
        lines = said.splitlines()
        assert lines, ended
        for line in lines:
            _, damage, outcome = line.split("\t")
            out.append((damage, outcome or ended))
    return out


def errors(name, results):
    print(name, dict(collections.Counter(outcome.partition(":")[0] for _, outcome in results)))
    return [f"{name}: {damage}: {outcome}" for damage, outcome in results if outcome.startswith("error")]


@pytest.mark.parametrize("name", ["TIFF", "OME-Zarr 0.5"])
def test_some_damaged_volumes(name, tmp_path):
    assert not errors(name, tried(name, 20, tmp_path))


@pytest.mark.parametrize("name", ["NIfTI", "NRRD", "PNG slices", "TIFF, deflate", "N5"])
def test_checksums_of_a_format_are_compared(name, tmp_path):
    """One byte in the middle of the data, in a place that can often be decompressed nevertheless."""
    spec = str(tmp_path / corrupted.FORMATS[name](tmp_path, corrupted.volume()))
    image = corrupted.read_whole(spec)
    path = max((p for p in tmp_path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    whole = path.read_bytes()
    for place in (0.5, 0.7, 0.8, 0.9):
        data = bytearray(whole)
        data[int(place * len(data))] ^= 255
        path.write_bytes(data)
        assert corrupted.outcome(spec, image) == "refused"
    path.write_bytes(whole)
    assert corrupted.outcome(spec, image) == "same"


@pytest.mark.slow
@pytest.mark.parametrize("name", corrupted.FORMATS)
def test_a_thousand_damaged_volumes(name, tmp_path):
    assert not errors(name, tried(name, 1000, tmp_path))
