"""The sample of a fit: seeded, stratified, inside the mask; the noise measured; a fit labels tiled as untiled.

Equal labels hold bit for bit with slices across several axes. Across one axis the scores may differ by rounding:
`TileComputation` compiles a tile of one round as another program than a tile of several, and a smoothing matrix is as
long as its tile.
"""

import functools

import numpy as np
import pytest

from his4mae_jax.clustering.centres import linear_scores
from his4mae_jax.clustering.fit import fit_clusters
from his4mae_jax.clustering.sampling import sample

SETTINGS = dict(
    fraction=0.02, fit_tiles=5, fit_least=0, fit_voxels=10**6, metric="whitened", restarts=3, compare_clusters=()
)


COVERS = (
    dict(), dict(axes="zyx"), dict(axes="zyx", smooth=0.7), dict(axes="x", smooth=0.4), dict(axes="zx"),
    dict(overhang=10), dict(axes="zyx", overhang=10), dict(axes="zyx", expansion="nearest"),
    dict(shifts=2), dict(axes="zyx", shifts=2, smooth=0.5, symmetries=2),
    dict(inference="cover"), dict(inference="cover", axes="zyx"),
)  # fmt: skip


@pytest.mark.parametrize("how", COVERS, ids=str)
def test_labels_of_a_fit_are_the_same_in_tiles(make_encoder, blobs, how):
    cover = "inference" in how
    volume = blobs((21, 24, 31) if cover else (45, 47, 53))
    assert len(sample(make_encoder(**how), volume, 0.02, 5, seed=0).noises) == (
        2 if len(how.get("axes", "z")) > 1 else 1
    )
    fit = fit_clusters(make_encoder(**how), volume, (3, 5), SETTINGS)
    scores = linear_scores(fit.centres)
    whole = make_encoder(**how).labels(volume, scores)
    assert len(np.unique(whole[3])) == 3 and whole[5].max() == 5
    assert (fit.encoded is None) == cover
    if not cover:  # what was encoded for the fit is labelled the same
        again = make_encoder(**how).labels(volume, scores, encoded=fit.encoded)
        assert (again[3] == whole[3]).mean() > 0.9999
    tiled = make_encoder(tile=20 if cover else 30, **how).labels(volume, scores)
    several_axes = len(how.get("axes", "z")) > 1
    for size in scores:
        if several_axes:
            np.testing.assert_array_equal(tiled[size], whole[size])
        else:
            differ_only_at_ties(make_encoder(**how), volume, scores[size], tiled[size], whole[size])


def differ_only_at_ties(encoder, volume, scores, labels, other):
    """Labels differ at fewer than 1 voxel in 1,000, and there the two centres are as near but for float32 rounding."""
    index_Mx3 = np.argwhere(labels != other)
    assert len(index_Mx3) < 1e-3 * labels.size
    if len(index_Mx3):
        (tile,) = encoder.coverage.tiles(volume.shape)
        terms_MxCxD = encoder.features_at(volume, tile, index_Mx3).astype(np.float64)[:, None] * scores.weights_CxD
        score_MxC = scores.offset_C + terms_MxCxD.sum(axis=-1)
        size_M = np.max(np.abs(scores.offset_C) + np.abs(terms_MxCxD).sum(axis=-1), axis=1)
        each = np.arange(len(index_Mx3))
        for choice in (labels, other):
            behind_M = score_MxC[each, choice[tuple(index_Mx3.T)]] - score_MxC.min(axis=1)
            assert np.all(behind_M <= 8 * np.finfo(np.float32).eps * size_M)


@pytest.mark.parametrize(
    "how", [how for how in COVERS if len(how.get("axes", "z")) == 1 and "smooth" not in how], ids=str
)
def test_features_of_one_axis_are_the_same_bits_in_tiles_of_several_rounds(make_encoder, blobs, how):
    """Batches so small that every tile takes several rounds: one compiled loop, and no rounding of its own."""
    cover = "inference" in how
    volume = blobs((21, 24, 31) if cover else (45, 47, 53))
    whole, _ = make_encoder(batch_fovs=2, **how).features(volume)
    tiled, _ = make_encoder(batch_fovs=2, tile=15 if cover else 25, **how).features(volume)
    np.testing.assert_array_equal(tiled, whole)


@pytest.mark.parametrize("inference", ["expand", "cover"])
def test_sample_is_seeded_stratified_and_inside_the_mask(make_encoder, inference, blobs, memory):
    make_encoder = functools.partial(make_encoder, inference=inference)
    volume = blobs((20, 50, 60))
    first = sample(make_encoder(), volume, 0.01, 9, seed=3).features_MxD
    assert abs(len(first) - 0.01 * 20 * 50 * 60) < 20
    np.testing.assert_array_equal(first, sample(make_encoder(), volume, 0.01, 9, seed=3).features_MxD)
    assert not np.array_equal(first, sample(make_encoder(), volume, 0.01, 9, seed=4).features_MxD)
    few = sample(make_encoder(tile=20), volume, 0.01, 2, seed=3).features_MxD  # 2 of 9 tiles give as many voxels
    assert abs(len(few) - len(first)) < 20
    inside = np.full(volume.shape, 255, np.uint8)
    inside[:, :, :30] = 0
    masked = sample(make_encoder(), volume, 0.01, 9, seed=3, mask=memory(inside)).features_MxD
    assert 0.35 * len(first) < len(masked) < 0.65 * len(first)
    inside[:] = 255
    assert len(sample(make_encoder(), volume, 0.01, 9, seed=3, mask=memory(inside)).features_MxD) == 0


def test_few_tiles_stand_for_those_that_hold_the_cell(make_encoder, blobs, memory):
    """Tiles outside the mask are never encoded, and neighbours of those that are count with them."""
    volume, encoder = blobs((20, 20, 400)), make_encoder(tile=20)
    tiles = list(encoder.coverage.fit_tiles(volume.shape))
    assert len(tiles) > 8
    inside = np.full(volume.shape, 255, np.uint8)
    inside[:, :, 200:] = 0
    read = []

    class Watched(type(volume)):
        def read(self, slices):
            read.append(tuple(slices))
            return super().read(slices)

    features = sample(encoder, Watched(volume.array), 0.05, 2, seed=0, mask=memory(inside)).features_MxD
    assert len(features) == pytest.approx(0.05 * (inside == 0).sum(), rel=0.1)
    holding = [i for i, tile in enumerate(tiles) if tile.write[2].stop > 200]
    encoded = [i for i, tile in enumerate(tiles) if tuple(tile.read) in read]
    halves = np.array_split(holding, 2)
    assert len(encoded) == 2 and encoded[0] in halves[0] and encoded[1] in halves[1]


def test_a_small_volume_is_sampled_more_densely(make_encoder, blobs):
    volume = blobs((20, 50, 60))
    count = [
        len(sample(make_encoder(), volume, 1e-3, 9, seed=0, least=n, most=5000).features_MxD) for n in (0, 2000, 10**6)
    ]
    assert count == pytest.approx([60, 2000, 5000], rel=0.01)
    everything = sample(make_encoder(), volume, 1e-3, 9, seed=0, least=10**9).features_MxD
    assert len(everything) == 20 * 50 * 60


def test_padding_is_not_sampled(make_encoder, blobs, memory):
    array = blobs((40, 48, 48)).array.copy()
    array[:24, :24, :24] = 255
    features = sample(make_encoder(axes="zyx", padding=(255,)), memory(array), 0.05, 5, seed=0).features_MxD
    assert len(features) == pytest.approx(0.05 * (array.size - 24**3), rel=0.05)


@pytest.mark.parametrize("inference", ["expand", "cover"])
def test_differences_are_between_neighbouring_tokens(make_encoder, inference, memory):
    """On a ramp along x, tokens differ along x and hardly along z."""
    ramp = memory(np.uint8(np.broadcast_to(np.linspace(0, 255, 60), (40, 40, 60))))
    differences, views = sample(make_encoder(axes="zyx", inference=inference), ramp, 0.01, 1, seed=0).noises
    assert len(differences) > 1000 and np.isfinite(differences).all()
    third = len(differences) // 3
    assert np.abs(differences[:third]).mean() < 0.2 * np.abs(differences[-third:]).mean()
    # What the axes differ by is measured from their mean at the same place.
    np.testing.assert_allclose(np.sum(np.split(views, 3), axis=0), 0, atol=1e-4)
