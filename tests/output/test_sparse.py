"""Volumes of which parts are not stored: labels are those of reading all; nothing empty is read or written."""

import numpy as np
import pytest
import tensorstore as ts

from his4mae_jax.clustering.centres import linear_scores
from his4mae_jax.clustering.fit import fit_clusters
from his4mae_jax.clustering.sampling import sample
from his4mae_jax.data.ome_zarr import pyramid
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.stores.chunks.stored import Stored
from his4mae_jax.data.volumes.blocks import stored_of
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.labels import UNLABELLED
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.evaluation import classical, filters
from his4mae_jax.naming.measure import measure
from his4mae_jax.output.engine.tiles import TileWriter

CHUNK, SHAPE = 8, (48, 56, 96)
SETTINGS = dict(
    fraction=0.02, fit_tiles=50, fit_least=0, fit_voxels=10**6, metric="whitened", restarts=3, compare_clusters=()
)  # fmt: skip


class Known:
    """A volume in memory that knows which of its chunks are stored, or does not, and remembers what was read."""

    def __init__(self, array, known=True):
        self.array, self.read_boxes = array, []
        self.shape, self.dtype, self.name, self.voxel_size_nm = array.shape, array.dtype, "known", (10.0,) * 3
        parts = array.reshape([m for n in array.shape for m in (n // CHUNK, CHUNK)]).any(axis=(1, 3, 5))
        edges = tuple(np.arange(n + 1) * CHUNK for n in parts.shape)
        self.stored = Stored(edges, parts, 0) if known else None

    def read(self, slices):
        self.read_boxes.append(slices)
        return self.array[slices]


@pytest.fixture
def sparse(blobs):
    """An array whose content lies in some of its chunks."""
    array = blobs(SHAPE).array.copy()
    empty = np.ones(SHAPE, bool)
    empty[:24, 8:40, :32] = empty[24:32, 40:48, 56:72] = False
    array[empty] = 0
    return array


def written(encoder, volume, scores):
    """The labels that a `TileWriter` writes, and what it says of each tile."""
    tiling = encoder.coverage.label_tiles(SHAPE, 1, scores[3].maps, block=(CHUNK,) * 3)
    store = {"driver": "zarr", "kvstore": {"driver": "memory"}}
    layout = ts.ChunkLayout(chunk_shape=[CHUNK] * 3)
    out = ts.open(store, create=True, dtype=ts.uint8, shape=SHAPE, fill_value=0, chunk_layout=layout).result()
    writer = TileWriter(encoder, volume, tiling, scores, {3: "labels"}, None, {"labels": out})
    return out.read().result(), list(writer.write(range(len(tiling)))), out, tiling


def test_tiles_without_anything_are_neither_read_nor_written(make_encoder, sparse):
    encoder = make_encoder(axes="zyx", tile=16, padding=(0,))
    scores = linear_scores(fit_clusters(encoder, Known(sparse), (3,), SETTINGS).centres)
    known, unknown = Known(sparse), Known(sparse, known=False)
    _, tiles, labels, tiling = written(encoder, known, scores)
    _, all_tiles, expected, _ = written(encoder, unknown, scores)
    np.testing.assert_array_equal(labels.read().result(), expected.read().result())
    assert (labels.read().result()[sparse > 0] != UNLABELLED).all()
    assert sorted(t.number for t in tiles) == [t.number for t in all_tiles] == list(range(len(tiling)))
    empty = [t.number for t in tiles if not t.checks]
    assert len(empty) > len(tiling) / 3
    assert len(known.read_boxes) <= 2 * (len(tiling) - len(empty)) < len(unknown.read_boxes)
    assert sorted(labels.kvstore.list().result()) == sorted(expected.kvstore.list().result())


def test_a_fit_is_drawn_from_what_is_stored(make_encoder, sparse):
    encoder, volume = make_encoder(axes="zyx", padding=(0,), tile=16), Known(sparse)
    number = 600
    found = sample(encoder, volume, 0.0, 500, 0, least=number)
    assert (sparse[tuple(found.index_Mx3.T)] != 0).all()
    assert 0.9 * number < len(found.index_Mx3) < 1.1 * number


def label_group(path, sparse):
    labels = np.uint8(sparse // 60)
    ome_zarr.create(path, SHAPE, np.uint8, 10.0, chunks=(CHUNK,) * 3, label_values={}).write(labels).result()
    return labels


def test_coarser_levels_are_made_of_what_is_stored(tmp_path, sparse, monkeypatch):
    read, real = [], pyramid.downsample

    def counted(block, *args, **options):
        read.append(block.size)
        return real(block, *args, **options)

    monkeypatch.setattr(pyramid, "downsample", counted)
    monkeypatch.setattr("his4mae_jax.data.ome_zarr.fill.SIDE", CHUNK)
    levels, voxels = {}, {}
    for name in ("known", "unknown"):
        if name == "unknown":
            monkeypatch.setattr(pyramid, "stored_chunks", lambda array: None)
        read.clear()
        label_group(tmp_path / name, sparse)
        assert pyramid.build_pyramid(tmp_path / name, levels=3) == 3
        levels[name] = [ome_zarr.open_array(tmp_path / name / str(i), "0.4").read().result() for i in range(3)]
        voxels[name] = sum(read)
    for one, other in zip(levels["known"], levels["unknown"], strict=True):
        np.testing.assert_array_equal(one, other)
    assert voxels["known"] < 0.5 * voxels["unknown"]


def test_sizes_and_grey_values_of_clusters_are_those_of_all_voxels(tmp_path, sparse, monkeypatch):
    labels = label_group(tmp_path / "labels", sparse)
    assert stored_of(open_volume(tmp_path / "labels", image=False)) is not None
    monkeypatch.setattr("his4mae_jax.naming.measure.BLOCK", (CHUNK,) * 3)
    image = Known(sparse)
    facts = measure(open_volume(tmp_path / "labels", image=False), image, [1, 2, 3], print)
    assert len(image.read_boxes) < 0.5 * sparse.size / CHUNK**3
    for i, (fraction, grey) in facts.items():
        assert fraction == pytest.approx((labels == i).sum() / (labels > 0).sum())
        assert grey == pytest.approx(sparse[labels == i].mean())


@pytest.mark.parametrize("kind", filters.SIGMAS)
def test_baselines_of_what_is_not_stored_are_those_of_reading_it(sparse, kind):
    far = np.zeros((16, 16, 160), np.uint8)
    far[:, :, :16] = sparse[8:24, 16:32, 8:24]
    box, found = (slice(0, 16), slice(0, 16), slice(96, 160)), []
    for known in (True, False):
        volume = Known(far, known)
        found.append(filters.features(volume, box, kind, Contrast(10, 200, True)))
        assert bool(volume.read_boxes) != known
    np.testing.assert_allclose(*found, atol=1e-5)


def test_blocks_of_a_thin_volume_are_as_large_as_those_of_a_thick_one():
    assert classical._as_large((64, 64, 64), (100, 999, 999)) == [64, 64, 64]
    assert classical._as_large((64, 64, 64), (1, 4096, 4096)) == [1, 512, 512]
    assert classical._as_large((64, 64, 64), (2, 4096, 4096)) == [2, 512, 256]
    assert classical._as_large((64, 128, 128), (1, 4096, 4096)) == [1, 512, 512]
