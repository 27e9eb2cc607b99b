"""Labels with a chunk that is lost or flipped are found, and not scored."""

import json
import pathlib

import numpy as np
import pytest

from his4mae_jax.data.ome_zarr import checksums
from his4mae_jax.data.ome_zarr import write as ome_zarr

OUT = pathlib.Path("volumes/cell")


def chunk(workdir, number=3):
    """One stored chunk of the labels."""
    level = workdir / OUT / "labels.ome.zarr/0"
    return sorted(p for p in level.rglob("*") if p.is_file() and not p.name.startswith("."))[number]


def flip(path):
    """Writes another chunk, which can be decoded, in the place of one."""
    other = next(p for p in sorted(path.parent.iterdir()) if p.read_bytes() != path.read_bytes() and p.name[0] != ".")
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    "how", [pathlib.Path.unlink, flip, lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"x" * 40)]
)
def test_damaged_labels_are_not_scored_and_made_anew(runs, how):
    workdir = runs.copy("whole")
    how(chunk(workdir))
    error = runs.run(workdir, "evaluate")
    assert f"{workdir / OUT}/labels.ome.zarr: voxels [" in error and "segment stage again" in error
    assert runs.run(workdir, "segment") is None and runs.run(workdir, "evaluate") is None
    assert runs.labels(workdir) == runs.labels(runs.folder / "whole")


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"labels.ome.zarr": 3}', b'{"labels.ome.zarr": [[[0], 1]]}'])
def test_damaged_checksums_are_told(runs, content):
    workdir = runs.copy("whole")
    (workdir / OUT / "checksums.json").write_bytes(content)
    assert "checksums.json" in runs.run(workdir, "evaluate")
    assert runs.run(workdir, "segment") is None and runs.run(workdir, "evaluate") is None


def test_labels_of_earlier_versions_have_no_checksums(runs):
    workdir = runs.copy("whole")
    record = json.loads((workdir / OUT / "segment.json").read_text())
    record["files"].remove("checksums.json")
    (workdir / OUT / "segment.json").write_text(json.dumps(record))
    (workdir / OUT / "checksums.json").unlink()
    assert runs.run(workdir, "evaluate") is None


def test_probabilities_are_checked_too(runs, tmp_path):
    workdir = runs.copy("half")
    assert runs.run(workdir, "segment", segment__probabilities=True) is None
    chunks = [p for p in (workdir / OUT / "probabilities.ome.zarr/0").rglob("*") if p.is_file() and p.name[0] != "."]
    chunks[0].unlink()
    assert "probabilities.ome.zarr: voxels" in runs.run(workdir, "evaluate", segment__probabilities=True)


def test_every_region_has_its_own_checksum(tmp_path):
    array = ome_zarr.create(tmp_path / "v.zarr", (8, 8, 8), np.uint8, 8.0, chunks=(4, 4, 4))
    values = np.arange(512, dtype=np.uint8).reshape(8, 8, 8)
    boxes = [tuple(slice(a, a + 4) for a in (z, y, 0)) for z in (0, 4) for y in (0, 4)]
    boxes = [(z, y, slice(0, 8)) for z, y, _ in boxes]
    array.write(values).result()
    entries = [checksums.entry(box, values[box]) for box in boxes]
    assert json.loads(json.dumps(entries)) == entries and all(map(checksums.is_entry, entries))
    assert list(checksums.damaged(tmp_path / "v.zarr", entries)) == []
    array[5, 1, 2].write(np.uint8(255)).result()
    (line,) = checksums.damaged(tmp_path / "v.zarr", entries)
    assert "voxels [4:8, 0:4, 0:8] are not those that were written" in line


def test_levels_are_read_in_boxes_of_whole_chunks_however_wide_they_are(tmp_path):
    for shape in ((300, 10240, 10240), (3, 64, 200, 90)):
        names = {"channels": ["a", "b", "c"]} if len(shape) == 4 else {}
        array = ome_zarr.create(tmp_path / str(len(shape)), shape, np.uint8, 8.0, chunks=(64, 64, 64), **names)
        block = checksums.block_of_chunks(array, 1 << 22)
        assert np.prod(block) <= 1 << 22
        assert all(
            b % c == 0 or b == n for b, c, n in zip(block, array.chunk_layout.read_chunk.shape, shape, strict=True)
        )
