"""Labels on another grid than that of the encoded volume: features interpolated linearly at its voxels."""

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from his4mae_jax.data.volumes.grid import Grid, Line, VoxelMap
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.tiling import EncodedTile

FINER = VoxelMap((20, 85, 83), (Line(-0.3, 1 / 2), Line(-1 / 3, 1 / 3), Line(-1 / 3, 1 / 3)))
COARSER = VoxelMap((5, 16, 14), (Line(0.5, 2.0), Line(0.4, 1.8), Line(0.25, 2.0)))
SHAPE = (10, 28, 27)
HOWS = (
    dict(), dict(axes="zyx", smooth=0.7), dict(axes="x", smooth=0.4), dict(shifts=2), dict(overhang=10, axes="zy"),
    dict(inference="cover", axes="zyx"),
)  # fmt: skip


def scores_of(encoder, volume, count):
    features = encoder.features(volume)[0].reshape(-1, encoder.coverage.dim)
    centres = features[np.random.default_rng(1).choice(len(features), count, replace=False)].astype(np.float64)
    centres -= features.mean(axis=0)
    offset = (centres**2).sum(1) + 2 * centres @ features.mean(axis=0)
    return LinearScores((-2 * centres).astype(np.float32), offset.astype(np.float32))


@pytest.mark.parametrize("onto", [FINER, COARSER], ids=["finer", "coarser"])
@pytest.mark.parametrize("how", [how for how in HOWS if "shifts" not in how], ids=str)  # features of one lattice
def test_labels_are_those_of_features_interpolated_at_the_voxels_of_the_grid(make_encoder, blobs, how, onto):
    volume, encoder = blobs(SHAPE), make_encoder(**how)
    given = scores_of(encoder, volume, 6)
    (labels,) = encoder.labels(volume, {6: given}, onto=onto).values()
    assert labels.shape == onto.shape
    features, positions = encoder.features(volume)
    at = [np.clip(line.at(0, n), p[0], p[-1]) for line, n, p in zip(onto.lines, onto.shape, positions, strict=True)]
    there = RegularGridInterpolator(positions, features)(np.stack(np.meshgrid(*at, indexing="ij"), -1))
    maps = np.sort(there @ given.weights_CxD.T + given.offset_C, axis=-1)
    want = 1 + (there @ given.weights_CxD.T + given.offset_C).argmin(-1)
    clear = maps[..., 1] - maps[..., 0] > 1e-4  # no tie
    assert clear.mean() > 0.99 and len(np.unique(want)) > 2
    np.testing.assert_array_equal(labels[clear], want[clear])


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_tiles_change_no_label(make_encoder, blobs, how):
    volume = blobs(SHAPE)
    whole, tiled = make_encoder(**how), make_encoder(**how, tile=11)
    given = {6: scores_of(whole, volume, 6)}
    assert len(tiled.coverage.label_tiles(SHAPE, 1, 6, onto=FINER)) > 4
    one, other = whole.labels(volume, given, onto=FINER)[6], tiled.labels(volume, given, onto=FINER)[6]
    assert (one != other).mean() < 1e-3  # ties: see docs/code.md
    if len(how.get("axes", "z")) > 1:
        np.testing.assert_array_equal(one, other)


def test_tiles_that_are_written_begin_at_blocks_of_the_grid_and_cover_it_once(make_encoder):
    coverage, counts = make_encoder(tile=11, axes="zyx").coverage, np.zeros(FINER.shape, int)
    for tile in coverage.label_tiles(SHAPE, 1, 4, onto=FINER, block=(4, 8, 16)):
        counts[tile.write] += 1
        assert all(s.start % b == 0 for s, b in zip(tile.write, (4, 8, 16), strict=True))
    assert (counts == 1).all()


def test_a_fine_grid_means_smaller_tiles(make_encoder, monkeypatch):
    monkeypatch.setattr("his4mae_jax.inference.coverage.MAPS_BYTES", 2**20)
    coverage = make_encoder(axes="zyx").coverage
    for onto in (VoxelMap((100,) * 3), VoxelMap((400,) * 3, (Line(0, 0.25),) * 3)):
        tiles = coverage.label_tiles((100,) * 3, 8, 1, onto=onto)
        assert max(8 * np.prod(tile.shape) for tile in tiles) < 2**21


def test_padding_of_the_volume_is_that_of_the_nearest_voxels(make_encoder, blobs, memory):
    image = np.array(blobs((20, 40, 40)).read((slice(None),) * 3))
    image[:, 16:, :] = 7
    volume, encoder = memory(image), make_encoder(padding=(7.0,))
    onto = VoxelMap((20, 120, 40), (Line(), Line(-1 / 3, 1 / 3), Line()))
    (labels,) = encoder.labels(volume, {6: scores_of(encoder, volume, 6)}, onto=onto).values()
    assert (labels[:, 48:] == 0).all() and (labels[:, :48] > 0).all()


def test_content_inside_padding_alone_is_written(make_encoder):
    inside = (slice(2, 10), slice(0, 20), slice(5, 27))
    coverage = make_encoder().coverage
    tiles = coverage.label_tiles(SHAPE, 1, 4, onto=FINER, inside=inside)
    low = np.min([[s.start for s in tile.write] for tile in tiles], axis=0)
    high = np.max([[s.stop for s in tile.write] for tile in tiles], axis=0)
    at = [line.at(0, n) for line, n in zip(FINER.lines, FINER.shape, strict=True)]
    for a, i, s in zip(at, low, inside, strict=True):
        assert a[i] > s.start - 0.5 and (i == 0 or a[i - 1] < s.start - 0.5)
    assert high[0] == FINER.shape[0] and high[2] == FINER.shape[2]
    assert at[1][high[1] - 1] < 19.5 < at[1][high[1]]


def test_a_tile_encoded_for_the_fit_is_used_on_a_finer_grid(make_encoder, blobs):
    volume, encoder = blobs(SHAPE), make_encoder(axes="zyx", smooth=0.5)
    (tile,) = encoder.coverage.fit_tiles(SHAPE)
    means = [np.mean(by_axis, axis=0) for by_axis in encoder.lattices(volume, tile)]
    encoded, given = EncodedTile(volume, tile.lattices, means), {6: scores_of(encoder, volume, 6)}
    (labelled,) = encoder.coverage.label_tiles(SHAPE, 1, 6, onto=FINER)
    assert encoded.holds(volume, labelled)
    used = encoder.labels(volume, given, onto=FINER, encoded=encoded)[6]
    assert (used != encoder.labels(volume, given, onto=FINER)[6]).mean() < 1e-3


def test_the_grid_of_a_coarser_image_ends_with_it():
    onto = Grid((7, 7, 7), (10.0,) * 3, (0.0,) * 3).among(Grid((4, 4, 4), (15.0,) * 3, (2.5,) * 3))
    assert onto.inside((slice(0, 4),) * 3, (4, 4, 4)) == (slice(0, 7),) * 3
