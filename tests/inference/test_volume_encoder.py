"""Features and labels of volumes: tiles, coverages, padding; labels are the nearest centres of the features."""

import dataclasses

import numpy as np
import pytest

from his4mae_jax.inference import coverage as coverages
from his4mae_jax.inference.lattice import along
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.tiling import EncodedTile
from his4mae_jax.progress import Progress


def linear(centres_CxD, **kwargs):
    """Scores whose smallest is the nearest of some centres."""
    centres = centres_CxD.astype(np.float64)
    middle = centres.mean(axis=0)  # scores relative to it: float32 then holds small differences
    weights, offset = -2 * (centres - middle), (centres**2).sum(1) - (middle**2).sum()
    return LinearScores(weights.astype(np.float32), offset.astype(np.float32), **kwargs)


def token_centres(encoder, volume, count):
    """Centres that are features of the volume, so that its voxels are divided among many."""
    (tile,) = encoder.coverage.tiles(volume.shape)
    index = np.random.default_rng(1).integers(0, volume.shape, (count, 3))
    return encoder.features_at(volume, tile, index)


def labels_of(encoder, volume, clusterings, blocks=None):
    out = {size: np.zeros(volume.shape, np.uint8) for size in clusterings}
    for tile, labels, _ in encoder.label(volume, clusterings):
        for size, block in labels.items():
            assert (out[size][tile.write] == 0).all()  # no voxel is written twice
            out[size][tile.write] = block
        if blocks is not None:
            blocks.append(block.size)
    return out


COVERS = (
    dict(), dict(axes="zyx"), dict(axes="zyx", smooth=0.7), dict(axes="x", smooth=0.4), dict(axes="zx"),
    dict(overhang=10), dict(axes="zyx", overhang=10), dict(axes="zyx", expansion="nearest"),
    dict(shifts=2), dict(axes="zyx", shifts=2, smooth=0.5, symmetries=2),
    dict(inference="cover"), dict(inference="cover", axes="zyx"),
)  # fmt: skip


@pytest.mark.parametrize("how", [dict(), dict(inference="cover")], ids=str)
def test_how_many_are_encoded_at_once_changes_no_label(make_encoder, blobs, how, monkeypatch):
    volume = blobs((6, 27, 33))
    monkeypatch.setattr("his4mae_jax.models.kernels.batches.CPU_BATCH_BYTES", 5 * 4 * 16 * 8)
    by_default, given = make_encoder(batch_fovs=0, **how), make_encoder(batch_fovs=7, **how)
    assert (by_default.batch, given.batch) == (5, 7)
    centres = token_centres(given, volume, 4)
    scores = {4: linear(centres)}
    assert (by_default.labels(volume, scores)[4] == given.labels(volume, scores)[4]).mean() > 0.999
    np.testing.assert_allclose(token_centres(by_default, volume, 4), centres, atol=1e-4)


@pytest.mark.parametrize("how", [dict(), dict(axes="zyx"), dict(inference="cover")], ids=str)
def test_centres_of_one_group_share_a_label(make_encoder, blobs, how):
    volume, group = blobs((20, 27, 33)), np.array([2, 0, 1, 0, 2, 1, 1])
    centres = token_centres(make_encoder(**how), volume, 7)
    grouped = linear(centres, group_C=group)
    found = labels_of(make_encoder(**how), volume, {7: linear(centres), 3: grouped})
    assert len(np.unique(found[7])) > 3 and len(np.unique(found[3])) > 1
    np.testing.assert_array_equal(found[3], 1 + group[found[7] - 1])
    tiled = labels_of(make_encoder(tile=17, **how), volume, {3: grouped})
    assert (tiled[3] == found[3]).mean() > 0.999


@pytest.mark.parametrize("inference", ["expand", "cover"])
def test_reads_are_bounded_whatever_the_size(make_encoder, inference, blobs):
    centres = {2: linear(np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32))}
    # Across one axis tiles are flat: a quarter of the side deep, twice as wide.
    depth, wide, largest = (5, 40, []) if inference == "expand" else (2, 20, [])
    for side in (2 * wide, 3 * wide, 4 * wide):
        volume = blobs((2 * depth, side, side))
        labels_of(make_encoder(tile=20, inference=inference), volume, centres)
        largest.append(volume.largest)
    assert largest[1] == largest[2] <= 2 * depth * (wide + 2 * 25) ** 2


def test_many_score_maps_mean_smaller_tiles_and_the_same_labels(make_encoder, monkeypatch, blobs):
    """K codes of a codebook are K score maps: what is held does not grow with them."""
    volume = blobs((20, 30, 30))
    for how in (dict(), dict(axes="zyx"), dict(inference="cover")):
        centres = {60: linear(token_centres(make_encoder(**how), volume, 60))}
        whole, blocks = labels_of(make_encoder(**how), volume, centres)[60], []
        with monkeypatch.context() as patch:
            patch.setattr(coverages, "MAPS_BYTES", 4 * 60 * 8 * 16**2)
            tiled = labels_of(make_encoder(**how), volume, centres, blocks)[60]
        assert (tiled == whole).mean() > 0.999 and sum(blocks) == volume.array.size
        assert max(blocks) <= 16**3


@pytest.mark.parametrize("how", COVERS, ids=str)
def test_labels_are_the_nearest_centres_of_the_features(make_encoder, how, blobs):
    """Score maps and full features, the same labels, in every way of covering a volume."""
    volume = blobs((25, 30, 35) if "inference" not in how else (20, 21, 23))
    encoder = make_encoder(**how)
    (tile,) = encoder.coverage.tiles(volume.shape)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij"), -1).reshape(-1, 3)
    if encoder.coverage.cover:  # the path of the fit: only the fields of view of given voxels
        index = index[::7]
    features = encoder.features_at(volume, tile, index)
    projection = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    projected = features @ projection
    centres = projected[np.argsort(projected[:, 0])[[len(projected) * n // 5 for n in (1, 2, 3, 4)]]]
    nearest = 1 + ((projected[:, None] - centres[None]) ** 2).sum(-1).argmin(-1)
    assert len(np.unique(nearest)) == 4
    scores = LinearScores(-2 * centres @ projection.T, (centres**2).sum(1))
    assert (labels_of(encoder, volume, {4: scores})[4][tuple(index.T)] == nearest).mean() > 0.999


def mean_lattice(encoder, volume):
    (tile,) = encoder.coverage.tiles(volume.shape)
    return np.mean(encoder.lattices(volume, tile)[0], axis=0)


def test_three_axes_are_the_mean_of_each(make_encoder, blobs):
    volume = blobs((30, 35, 40))
    lattices = {}
    for axis in "zyx":
        # Two axes, so that the lattice is that of tokens on every axis.
        for other in "zyx".replace(axis, ""):
            encoder = make_encoder(axes=axis + other)
            lattices[frozenset(axis + other)] = mean_lattice(encoder, volume)
    np.testing.assert_allclose(mean_lattice(make_encoder(axes="zyx"), volume), sum(lattices.values()) / 3, atol=1e-5)


@pytest.mark.parametrize("symmetries", [2, 4, 8])
def test_averaged_over_symmetries_a_turned_volume_gives_turned_features(make_encoder, symmetries, blobs, memory):
    """Features are then the same for an image and its mirror image (at 8 its transpose, too)."""
    volume = blobs((1, 40, 40))
    turn = {2: np.s_[:, :, ::-1], 4: np.s_[:, ::-1, ::-1]}.get(symmetries)
    turned = memory(volume.array[turn] if turn else volume.array.swapaxes(1, 2)[:, ::-1])
    once, averaged = make_encoder(), make_encoder(symmetries=symmetries)
    back = lambda x: x[turn] if turn else x[:, ::-1].swapaxes(1, 2)  # noqa: E731
    want = mean_lattice(averaged, volume)
    np.testing.assert_allclose(back(mean_lattice(averaged, turned)), want, atol=2e-5)
    assert np.abs(back(mean_lattice(once, turned)) - mean_lattice(once, volume)).max() > 0.01
    assert averaged.coverage.count_fovs(volume.shape) == symmetries * once.coverage.count_fovs(volume.shape)


def test_shifted_grids_are_those_of_a_shifted_volume(make_encoder, blobs, memory):
    """The second of two grids begins two pixels early, on mirrored pixels."""
    volume = blobs((1, 33, 41))
    encoder = make_encoder(shifts=2)
    (tile,) = encoder.coverage.tiles(volume.shape)
    shifted = memory(np.pad(volume.array, ((0, 0), (2, 0), (2, 0)), mode="reflect"))
    found = encoder.lattices(volume, tile)[1][0]
    want = mean_lattice(make_encoder(), shifted)
    np.testing.assert_allclose(found, want[:, : found.shape[1], : found.shape[2]], atol=2e-5)
    everywhere = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1).reshape(-1, 3)
    ours = encoder.features_at(volume, tile, everywhere).reshape(*volume.shape, -1)
    each = []
    for one, cut in ((volume, 0), (shifted, 2)):
        (whole,) = make_encoder().coverage.tiles(one.shape)
        index = everywhere + (0, cut, cut)
        each.append(make_encoder().features_at(one, whole, index).reshape(*volume.shape, -1))
    np.testing.assert_allclose(ours, np.mean(each, axis=0), atol=2e-5)
    assert encoder.coverage.count_fovs(volume.shape) == 3 * 4 + 3 * 4


def test_padding_is_not_labelled(make_encoder, blobs, memory):
    array = blobs((40, 48, 48)).array.copy()
    array[:24, :24, :24] = 255
    volume = memory(array)
    encoder = make_encoder(axes="zyx", padding=(255,))
    scores = {3: linear(token_centres(encoder, volume, 3))}
    whole = labels_of(encoder, volume, scores)[3]
    assert (whole[:24, :24, :24] == 0).all() and (whole[array < 255] > 0).all() and whole.max() <= 3
    tiled = labels_of(make_encoder(axes="zyx", padding=(255,), tile=20), volume, scores)[3]
    np.testing.assert_array_equal(tiled == 0, whole == 0)


@pytest.mark.parametrize("how", COVERS, ids=str)
def test_features_of_a_whole_volume_are_those_that_are_clustered(make_encoder, blobs, how):
    """In tiles as at once; interpolated to voxels they are `features_at`; of several shifts the first's."""
    volume = blobs((25, 30, 35) if "inference" not in how else (10, 21, 23))
    features, positions = make_encoder(**how).features(volume)
    assert features.shape == (*(len(p) for p in positions), 8) and features.dtype == np.float32
    for p, n in zip(positions, volume.shape, strict=True):
        assert len(np.unique(np.diff(p))) == 1 and 0 <= p[0] <= 2 and n - 3 <= p[-1] <= n + 2
    tiled, same = make_encoder(tile=12, **how).features(volume)
    np.testing.assert_allclose(tiled, features, atol=2e-5)
    for p, q in zip(positions, same, strict=True):
        np.testing.assert_array_equal(p, q)
    if how.get("shifts", 1) > 1 or "expansion" in how:
        return
    encoder = make_encoder(**how)
    (tile,) = encoder.coverage.tiles(volume.shape)
    index = np.random.default_rng(0).integers(0, volume.shape, (50, 3))
    for axis, p in enumerate(positions):
        where = (np.clip(np.arange(volume.shape[axis]), p[0], p[-1]) - p[0]) / (p[1] - p[0])
        lower = np.minimum(where.astype(int), len(p) - 2)
        features = along(features, lower, (where - lower).astype(np.float32), axis)
    expected = encoder.features_at(volume, tile, index)
    np.testing.assert_allclose(np.asarray(features)[tuple(index.T)], expected, atol=5e-5)


@pytest.mark.parametrize("how", [dict(), dict(axes="zyx", shifts=2, smooth=0.5)], ids=str)
def test_an_encoded_tile_is_not_read_again_and_gives_the_same_labels(make_encoder, blobs, how):
    volume, other = blobs((20, 30, 30)), blobs((20, 30, 30), seed=1)
    encoder = make_encoder(**how)
    scores = {4: linear(token_centres(encoder, volume, 4))}
    (tile,) = encoder.coverage.fit_tiles(volume.shape)
    means = [np.mean(by_axis, axis=0) for by_axis in encoder.lattices(volume, tile)]
    encoded = EncodedTile(volume, tile.lattices, means)
    want, volume.largest = encoder.labels(volume, scores)[4], 0
    assert (encoder.labels(volume, scores, encoded=encoded)[4] == want).mean() > 0.9999
    assert volume.largest == 0
    encoder.labels(other, scores, encoded=encoded)  # of another volume it says nothing
    assert other.largest == other.array.size


def test_progress_advances_within_a_tile_by_all_of_its_voxels(make_encoder, blobs, monkeypatch):
    volume = blobs((40, 30, 30))
    monkeypatch.setattr("his4mae_jax.inference.tile_computation.DISPATCH_BATCHES", 1)
    for how in (dict(), dict(axes="zyx"), dict(tile=16)):
        steps = []
        bar = Progress("segment", volume.array.size, "voxels", print)
        monkeypatch.setattr(bar, "advance", steps.append)
        made = make_encoder(batch_fovs=4, **how)
        labels = made.labels(volume, {2: linear(np.eye(2, 8, dtype=np.float32))}, bar=bar)[2]
        assert sum(steps) == pytest.approx(volume.array.size)
        assert sum(step > 0 for step in steps) > len(made.coverage.tiles(volume.shape)) and min(steps) > -1e-6
        monkeypatch.setattr("his4mae_jax.inference.tile_computation.DISPATCH_BATCHES", 10**6)
        whole = make_encoder(batch_fovs=4, **how).labels(volume, {2: linear(np.eye(2, 8, dtype=np.float32))})[2]
        np.testing.assert_array_equal(labels, whole)  # however a tile is cut into dispatches
        monkeypatch.setattr("his4mae_jax.inference.tile_computation.DISPATCH_BATCHES", 1)


@pytest.mark.parametrize(
    "how",
    [
        dict(),
        dict(batch_fovs=1),
        dict(axes="zyx", batch_fovs=1),
        dict(inference="cover", batch_fovs=4),
        dict(symmetries=2, shifts=2),
    ],
    ids=str,
)
def test_batches_of_a_large_model_are_reported_and_change_no_bit(make_encoder, blobs, how, monkeypatch):
    """Also within a dispatch, and where a tile is a single round."""
    volume, steps = blobs((6, 30, 30)), {}
    plain = make_encoder(**{"batch_fovs": 5, **how})
    reporting = dataclasses.replace(plain, fov_flop=1e9)
    scores = {4: linear(token_centres(make_encoder(**how | {"tile": 1000}), volume, 4))}
    (tile, *_) = plain.coverage.tiles(volume.shape)
    for one, other in zip(plain.lattices(volume, tile), reporting.lattices(volume, tile), strict=True):
        for lattice, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(lattice, same)
    labels = {}
    for name, encoder in (("plain", plain), ("reporting", reporting)):
        bar, steps[name] = Progress("segment", volume.array.size, "voxels", print), []
        monkeypatch.setattr(bar, "advance", steps[name].append)
        labels[name] = encoder.labels(volume, scores, bar=bar)[4]
        assert sum(steps[name]) == pytest.approx(volume.array.size)
    np.testing.assert_array_equal(labels["plain"], labels["reporting"])
    assert len(steps["reporting"]) >= 2 * len(steps["plain"])
