"""What tells that the files of a volume were written to."""

import os

import numpy as np
import pytest

from his4mae_jax.data.formats import state
from his4mae_jax.data.formats.state import file_state
from his4mae_jax.data.ome_zarr import write as ome_zarr


@pytest.fixture
def volume(tmp_path):
    out = ome_zarr.create(tmp_path / "cell.zarr", (16, 16, 16), np.uint8, 8.0, chunks=(8, 8, 8))
    out.write(np.ones((16, 16, 16), np.uint8)).result()
    return tmp_path / "cell.zarr"


def test_a_volume_that_is_left_alone_has_one_state(volume):
    before = file_state(str(volume))
    assert before == file_state(f"{volume}[0:8, :, :]") and len(before) == 64


def test_a_chunk_that_is_replaced_changes_it(volume):
    before = file_state(str(volume))
    chunk = max((p for p in volume.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.with_name("new").write_bytes(chunk.read_bytes())
    os.replace(chunk.with_name("new"), chunk)
    assert file_state(str(volume)) != before


def test_a_file_written_to_in_place_changes_it(tmp_path):
    path = tmp_path / "cell.npy"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    before = file_state(str(path))
    path.write_bytes(b"two")
    assert file_state(str(path)) != before


def test_not_every_chunk_is_looked_at(volume, monkeypatch):
    seen = []
    monkeypatch.setattr(state, "_add", lambda found, path: seen.append(path))
    monkeypatch.setattr(state, "ENTRIES", 5)
    file_state(str(volume))
    assert 5 <= len(seen) <= 8


@pytest.mark.parametrize("name", ["https://example.org/cell.zarr", "s3://bucket/cell.zarr", "nowhere/cell.tif"])
def test_there_is_none_of_what_is_not_here(name):
    assert file_state(name) is None
