"""Streaming: tiled equals untiled, memory does not grow, samples are stratified and seeded."""

import dataclasses
import functools
import math

import jax
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.errors import UserError
from his4mae_jax.inference import driver
from his4mae_jax.inference import expand_stride as es
from his4mae_jax.inference.driver import Segmenter
from his4mae_jax.pretext import his4mae


class Memory:
    """A volume in memory that remembers the largest box read."""

    def __init__(self, array):
        self.array, self.largest = array, 0
        self.shape, self.dtype, self.name, self.voxel_size_nm = array.shape, array.dtype, "memory", (10.0,) * 3

    def read(self, slices):
        box = self.array[slices]
        self.largest = max(self.largest, box.size)
        return box


@pytest.fixture
def make(tiny):
    models = his4mae.build(tiny)
    params = jax.jit(lambda: his4mae.init_params(jax.random.key(0), models)["encoder"])()
    params = jax.tree.map(lambda x: x * 3.0, params)  # tokens that differ clearly

    def segmenter(**changes):
        settings = {**dict(axes="z", stride=10, edge_weight=0.25, smooth=0.0, batch=8, tile=1000), **changes}
        if settings.get("inference") == "cover" and "batch" not in changes:
            settings["batch"] = 64
        return Segmenter(models, params, Contrast(0, 255), **settings)

    return segmenter


def blobs(shape, seed=0):
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return Memory(np.uint8(127 + 90 * noise / np.abs(noise).max()))


def random_centres(count, dim=8):
    rng = np.random.default_rng(0)
    return centre_files.Centres(*(rng.normal(size=(n, dim)).astype(np.float32) for n in (count, dim)))


def token_centres(segmenter, volume, count):
    """Centres that are features of the volume, so that its voxels are shared out among many."""
    features = segmenter.sample(volume, 0.3, 1, seed=1)[0][:count]
    return centre_files.Centres(features, np.eye(features.shape[1], dtype=np.float32))


def labels_of(segmenter, volume, centres, blocks=None):
    out = {size: np.full(volume.shape, 255, np.uint8) for size in centres}
    for tile, labels, _ in segmenter.label(volume, centres):
        for size, block in labels.items():
            assert (out[size][tile.write] == 255).all()  # no voxel is written twice
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


@pytest.mark.parametrize("how", COVERS, ids=str)
def test_tiled_equals_untiled(make, how):
    cover = "inference" in how
    volume = blobs((21, 24, 31) if cover else (45, 47, 53))
    features, noises = make(**how).sample(volume, 0.02, 5, seed=0)
    assert len(noises) == (2 if len(how.get("axes", "z")) > 1 else 1)
    whitened = centre_files.noise_whitening(features, *noises)
    centres = {3: centre_files.fit(features, 3, 3, 0, whitened), 5: centre_files.fit(features, 5, 3, 0, whitened)}
    whole = labels_of(make(**how), volume, centres)
    assert len(np.unique(whole[3])) == 3 and whole[5].max() == 4
    if not cover:
        segmenter = make(**how)
        segmenter.sample(volume, 0.02, 5, seed=0)  # keeps what it encoded: labels must not change
        assert (labels_of(segmenter, volume, centres)[3] == whole[3]).mean() > 0.9999
    tiled = labels_of(make(tile=20 if cover else 30, **how), volume, centres)
    for size in centres:
        np.testing.assert_array_equal(tiled[size], whole[size])


@pytest.mark.parametrize("how", [dict(), dict(inference="cover")], ids=str)
def test_how_many_are_encoded_at_once_changes_no_label(make, how, monkeypatch):
    volume = blobs((6, 27, 33))
    monkeypatch.setattr("his4mae_jax.models.kernels.batches.CPU_BATCH_BYTES", 5 * 4 * 16 * 8)
    of_itself, told = make(batch=0, **how), make(**how)
    told.batch = 7
    assert of_itself.batch == 5
    centres = {4: token_centres(told, volume, 4)}
    assert (labels_of(of_itself, volume, centres)[4] == labels_of(told, volume, centres)[4]).mean() > 0.999
    first, again = (s.sample(volume, 0.02, 1, seed=0)[0] for s in (of_itself, told))
    np.testing.assert_allclose(first, again, atol=1e-4)


@pytest.mark.parametrize("how", [dict(), dict(axes="zyx"), dict(inference="cover")], ids=str)
def test_centres_of_one_group_share_a_label(make, how):
    volume, group = blobs((20, 27, 33)), np.array([2, 0, 1, 0, 2, 1, 1])
    alone = token_centres(make(**how), volume, 7)
    found = labels_of(make(**how), volume, {7: alone, 3: dataclasses.replace(alone, group_C=group)})
    assert len(np.unique(found[7])) > 3 and len(np.unique(found[3])) > 1
    np.testing.assert_array_equal(found[3], group[found[7]])
    tiled = labels_of(make(tile=17, **how), volume, {3: dataclasses.replace(alone, group_C=group)})
    assert (tiled[3] == found[3]).mean() > 0.999


@pytest.mark.parametrize("inference", ["expand", "cover"])
def test_reads_are_bounded_whatever_the_size(make, inference):
    centres = {2: random_centres(2)}
    # Across one axis tiles are flat: a quarter of the side deep, twice as wide.
    depth, wide, largest = (5, 40, []) if inference == "expand" else (2, 20, [])
    for side in (2 * wide, 3 * wide, 4 * wide):
        volume = blobs((2 * depth, side, side))
        labels_of(make(tile=20, inference=inference), volume, centres)
        largest.append(volume.largest)
    assert largest[1] == largest[2] <= 2 * depth * (wide + 2 * 25) ** 2


def test_many_score_maps_mean_smaller_tiles_and_the_same_labels(make, monkeypatch):
    """K codes of a codebook are K score maps: what is held does not grow with them."""
    volume = blobs((20, 30, 30))
    for how in (dict(), dict(axes="zyx"), dict(inference="cover")):
        centres = {60: token_centres(make(**how), volume, 60)}
        whole, blocks = labels_of(make(**how), volume, centres)[60], []
        with monkeypatch.context() as patch:
            patch.setattr(driver, "MAPS_BYTES", 4 * 60 * 8 * 16**2)
            tiled = labels_of(make(**how), volume, centres, blocks)[60]
        assert (tiled == whole).mean() > 0.999 and sum(blocks) == volume.array.size
        assert max(blocks) <= 16**3


@pytest.mark.parametrize("inference", ["expand", "cover"])
def test_sample_is_seeded_stratified_and_inside_the_mask(make, inference):
    make = functools.partial(make, inference=inference)
    volume = blobs((20, 50, 60))
    first = make().sample(volume, 0.01, 9, seed=3)[0]
    assert abs(len(first) - 0.01 * 20 * 50 * 60) < 20
    np.testing.assert_array_equal(first, make().sample(volume, 0.01, 9, seed=3)[0])
    assert not np.array_equal(first, make().sample(volume, 0.01, 9, seed=4)[0])
    few = make(tile=20).sample(volume, 0.01, 2, seed=3)[0]  # 2 of 9 tiles give as many voxels
    assert abs(len(few) - len(first)) < 20
    inside = np.full(volume.shape, 255, np.uint8)
    inside[:, :, :30] = 0
    masked = make().sample(volume, 0.01, 9, seed=3, mask=Memory(inside))[0]
    assert 0.35 * len(first) < len(masked) < 0.65 * len(first)
    inside[:] = 255
    assert len(make().sample(volume, 0.01, 9, seed=3, mask=Memory(inside))[0]) == 0


@pytest.mark.parametrize("how", COVERS, ids=str)
def test_labels_are_the_nearest_centres_of_the_features(make, how):
    """Score maps and full features, the same labels, in every way of covering a volume."""
    volume = blobs((25, 30, 35) if "inference" not in how else (20, 21, 23))
    segmenter = make(**how)
    (tile,) = segmenter.tiles(volume.shape)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in volume.shape), indexing="ij"), -1).reshape(-1, 3)
    if segmenter.cover:  # the path of the fit: only the fields of view of given voxels
        index = index[::7]
    features = segmenter.features(volume, tile, index)
    projection = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    centres = centre_files.fit(features[::17], 4, 3, 0, projection)
    distance = ((features @ projection)[:, None] - centres.centres_CxM[None]) ** 2
    nearest = distance.sum(-1).argmin(-1)
    assert len(np.unique(nearest)) == 4
    assert (labels_of(segmenter, volume, {4: centres})[4][tuple(index.T)] == nearest).mean() > 0.999


def mean_lattice(segmenter, volume):
    (tile,) = segmenter.tiles(volume.shape)
    return np.mean(segmenter.lattices(volume, tile)[0], axis=0)


def test_three_axes_are_the_mean_of_each(make):
    volume = blobs((30, 35, 40))
    lattices = {}
    for axis in "zyx":
        # Two axes, so that the lattice is that of tokens on every axis.
        for other in "zyx".replace(axis, ""):
            segmenter = make(axes=axis + other)
            lattices[frozenset(axis + other)] = mean_lattice(segmenter, volume)
    np.testing.assert_allclose(mean_lattice(make(axes="zyx"), volume), sum(lattices.values()) / 3, atol=1e-5)


@pytest.mark.parametrize("symmetries", [2, 4, 8])
def test_averaged_over_symmetries_a_turned_volume_gives_turned_features(make, symmetries):
    """Features are then the same for an image and its mirror image (at 8 its transpose, too)."""
    volume = blobs((1, 40, 40))
    turn = {2: np.s_[:, :, ::-1], 4: np.s_[:, ::-1, ::-1]}.get(symmetries)
    turned = Memory(volume.array[turn] if turn else volume.array.swapaxes(1, 2)[:, ::-1])
    once, averaged = make(), make(symmetries=symmetries)
    back = lambda x: x[turn] if turn else x[:, ::-1].swapaxes(1, 2)  # noqa: E731
    want = mean_lattice(averaged, volume)
    np.testing.assert_allclose(back(mean_lattice(averaged, turned)), want, atol=2e-5)
    assert np.abs(back(mean_lattice(once, turned)) - mean_lattice(once, volume)).max() > 0.01
    assert averaged.count_fovs(volume.shape) == symmetries * once.count_fovs(volume.shape)


def test_shifted_grids_are_those_of_a_shifted_volume(make):
    """The second of two grids begins two pixels early, on mirrored pixels."""
    volume = blobs((1, 33, 41))
    segmenter = make(shifts=2)
    (tile,) = segmenter.tiles(volume.shape)
    shifted = Memory(np.pad(volume.array, ((0, 0), (2, 0), (2, 0)), mode="reflect"))
    found = segmenter.lattices(volume, tile)[1][0]
    want = mean_lattice(make(), shifted)
    np.testing.assert_allclose(found, want[:, : found.shape[1], : found.shape[2]], atol=2e-5)
    everywhere = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1).reshape(-1, 3)
    ours = segmenter.features(volume, tile, everywhere).reshape(*volume.shape, -1)
    each = []
    for one, cut in ((volume, 0), (shifted, 2)):
        (whole,) = make().tiles(one.shape)
        index = everywhere + (0, cut, cut)
        each.append(make().features(one, whole, index).reshape(*volume.shape, -1))
    np.testing.assert_allclose(ours, np.mean(each, axis=0), atol=2e-5)
    assert segmenter.count_fovs(volume.shape) == 3 * 4 + 3 * 4


def test_smoothing_is_as_wide_in_nm_across_thick_slices(make):
    """Slices twice as thick: half as many of them within the Gaussian."""
    (tile,) = make(smooth=0.8, spacing=(2.0, 1.0, 1.0)).tiles((40, 30, 30))
    z, y, _ = tile.grids[0]
    assert z.scale == 2.5 and y.scale == 1
    wide = es.smoothing_matrix(z, 0.8)[20]
    spread = np.sqrt((wide * (np.arange(40) - 20) ** 2).sum())
    np.testing.assert_allclose(spread, 0.8 * 2.5, rtol=0.05)


def test_tiles_end_where_chunks_do(make):
    tiling = make(tile=30).tiles((50, 90, 90), inside=(slice(3, 50), slice(0, 77), slice(20, 90)), block=(8, 16, 16))
    seen = np.zeros((50, 90, 90), int)
    for tile in (tiling[i] for i in range(len(tiling))):
        seen[tile.write] += 1
        for s, b, end in zip(tile.write, (8, 16, 16), (50, 77, 90), strict=True):
            assert s.stop % b == 0 or s.stop == end
    assert (seen[3:, :77, 20:] == 1).all() and seen.sum() == 47 * 77 * 70


def test_padding_is_neither_sampled_nor_labelled(make):
    array = blobs((40, 48, 48)).array.copy()
    array[:24, :24, :24] = 255
    volume = Memory(array)
    segmenter = make(axes="zyx", padding=(255,))
    features, _ = segmenter.sample(volume, 0.05, 5, seed=0)
    assert len(features) == pytest.approx(0.05 * (array.size - 24**3), rel=0.05)
    whole = labels_of(segmenter, volume, {3: token_centres(segmenter, volume, 3)})[3]
    assert (whole[:24, :24, :24] == 255).all() and (whole[array < 255] < 3).all()
    tiled = labels_of(make(axes="zyx", padding=(255,), tile=20), volume, {3: token_centres(segmenter, volume, 3)})[3]
    np.testing.assert_array_equal(tiled == 255, whole == 255)


def test_too_small_for_the_field_of_view_names_the_axis(make):
    assert make(axes="z").check_size((5, 20, 20)) is None
    assert make(axes="zyx").check_size((5, 20, 20)) == "y"
    assert make(axes="z").check_size((40, 19, 20)) == "z"


def test_settings_that_do_not_go_together_are_told(make):
    for key, changes in (
        ("segment.smooth", dict(inference="cover", smooth=0.5)),
        ("segment.expansion", dict(inference="cover", expansion="nearest")),
        ("segment.inference", dict(inference="covers")),
        ("segment.expansion", dict(expansion="cubic")),
        ("segment.shifts", dict(inference="cover", shifts=2)),
        ("segment.shifts", dict(shifts=6)),
        ("segment.symmetries", dict(symmetries=3)),
    ):
        with pytest.raises(UserError, match=key):
            make(**changes)


def test_scores_are_distances_up_to_what_all_centres_share():
    rng = np.random.default_rng(0)
    z, centres = rng.normal(size=(50, 8)).astype(np.float32), random_centres(4)
    scores = np.asarray(es.scores(z, *centres.linear()))
    distance = (((z @ centres.projection_DxM)[:, None] - centres.centres_CxM) ** 2).sum(-1)
    shared = distance - scores
    np.testing.assert_allclose(shared, np.broadcast_to(shared[:, :1], shared.shape), atol=1e-3)


@pytest.mark.parametrize("inference", ["expand", "cover"])
def test_differences_are_between_neighbouring_tokens(make, inference):
    """On a ramp along x, tokens differ along x and hardly along z."""
    ramp = Memory(np.uint8(np.broadcast_to(np.linspace(0, 255, 60), (40, 40, 60))))
    _, (differences, views) = make(axes="zyx", inference=inference).sample(ramp, 0.01, 1, seed=0)
    assert len(differences) > 1000 and np.isfinite(differences).all()
    third = len(differences) // 3
    assert np.abs(differences[:third]).mean() < 0.2 * np.abs(differences[-third:]).mean()
    # What the axes differ by is measured from their mean at the same place.
    np.testing.assert_allclose(np.sum(np.split(views, 3), axis=0), 0, atol=1e-4)


def test_centres_are_ordered_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=(n, 2)) * 0.1 + m for n, m in ((20, (0, 5)), (90, (5, 0)), (40, (-5, -5)))]
    centres = centre_files.fit(np.concatenate(groups).astype(np.float32), 3, 5, 0)
    np.testing.assert_allclose(centres.centres_CxM, [(5, 0), (-5, -5), (0, 5)], atol=0.1)  # largest first
    centre_files.save(tmp_path / "centres.npz", {3: centres}, step=7)
    loaded, facts = centre_files.load(tmp_path / "centres.npz")
    np.testing.assert_array_equal(loaded[3].centres_CxM, centres.centres_CxM)
    np.testing.assert_array_equal(loaded[3].projection_DxM, np.eye(2))
    assert facts == {"step": 7} and loaded[3].group_C is None
    grouped = dataclasses.replace(centres, group_C=np.array([1, 0, 1]))
    centre_files.save(tmp_path / "centres.npz", {2: grouped, 3: centres})
    loaded, _ = centre_files.load(tmp_path / "centres.npz")
    np.testing.assert_array_equal(loaded[2].group_C, [1, 0, 1])
    assert loaded[3].group_C is None


@pytest.mark.parametrize("mixture", [False, True])
def test_variance_is_that_within_clusters(mixture):
    """By which probabilities are the softmax of scores; of two far groups with a spread of 0.5."""
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(size=(n, 3)) * 0.5 + m for n, m in ((3000, 5.0), (1000, -5.0))]).astype(np.float32)
    centres = centre_files.fit(z, 2, 3, 0, np.eye(3, dtype=np.float32), mixture=mixture)
    np.testing.assert_allclose(centres.variance, 0.25, rtol=0.03)
    points = np.float32([[5, 5, 5], [0.02, 0.02, 0.02], [-0.1, 0.0, 0.05]])
    maps = es.scores(points, *centres.linear())
    shares = np.asarray(es.probabilities(maps, (2,), (None,), (0, 2), np.float32(centres.variance)))
    distance = ((points[:, None] - centres.centres_CxM) ** 2).sum(-1)
    log_odds = (distance[:, 1] - distance[:, 0]) / (2 * centres.variance)
    np.testing.assert_allclose(shares[0], 255 * (1 + np.tanh(log_odds / 2)) / 2, atol=1)
    assert shares[:, 0].tolist() == [255, 0] and 128 < shares[0, 1] < 255


def test_bad_centres_files_and_too_few_samples_are_told(tmp_path):
    (tmp_path / "centres.npz").write_bytes(b"not npz")
    with pytest.raises(UserError, match="not a centres file"):
        centre_files.load(tmp_path / "centres.npz")
    with pytest.raises(UserError, match="segment.fraction"):
        centre_files.fit(np.zeros((3, 2)), 4, 1, 0)


def test_noise_whitening_weighs_noise_and_the_features_themselves():
    """(mean noise + FEATURE_WEIGHT features) becomes white, each scaled to trace 1; clearest first."""
    rng = np.random.default_rng(0)
    scaled = lambda x: np.cov(x.T, bias=True) / np.trace(np.cov(x.T, bias=True))  # noqa: E731
    features, *noises = (np.float32(rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 4))) for _ in range(3))
    noises = [n - n.mean(axis=0) for n in noises]
    white = centre_files.noise_whitening(features + 7, *noises)
    mixed = np.mean([scaled(n) for n in noises], axis=0) + centre_files.FEATURE_WEIGHT * scaled(features)
    np.testing.assert_allclose(white.T @ mixed @ white, np.eye(4), atol=1e-3)
    clarity = white.T @ scaled(features) @ white
    np.testing.assert_allclose(clarity, np.diag(np.diag(clarity)), atol=1e-3)
    assert (np.diff(np.diag(clarity)) < 0).all()  # the first columns are the clearest directions
    for_each_scale = centre_files.noise_whitening(features, noises[0], 50 * noises[1])
    np.testing.assert_allclose(np.abs(for_each_scale), np.abs(white), rtol=1e-3, atol=1e-4)


def test_no_direction_counts_for_more_than_feature_weight_allows(monkeypatch):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3)).astype(np.float32) * (3, 1, 1)
    noise = rng.normal(size=(4000, 3)).astype(np.float32) * (0.05, 1, 1)  # the first is nearly free of it

    def clearest():
        z = features @ centre_files.noise_whitening(features, noise)
        return np.var(z[:, 0]) / np.trace(np.cov(features.T))

    assert 3.5 < clearest() < 1 / centre_files.FEATURE_WEIGHT
    monkeypatch.setattr(centre_files, "FEATURE_WEIGHT", 0.0)
    assert clearest() > 100


def test_directions_that_never_vary_stay_finite():
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32) * (1, 1, 1, 0)
    assert np.isfinite(centre_files.noise_whitening(x, x)).all()


def unequal_spheres():
    """3000 and 60 points around (0, 0) and (4, 0), with their labels."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], (3000, 60))
    return (rng.normal(size=(3060, 2)) + label[:, None] * (4.5, 0)).astype(np.float32), label


def test_mixture_centres_stay_with_a_small_cluster():
    z, label = unequal_spheres()
    kmeans, mixture = centre_files.fit(z, 2, 5, 0), centre_files.fit(z, 2, 5, 0, mixture=True)
    error = [np.abs(c.centres_CxM - [(0, 0), (4.5, 0)]).max() for c in (kmeans, mixture)]
    assert error[1] < 0.4 < 1 < error[0]
    found = np.argmin(((z[:, None] - mixture.centres_CxM) ** 2).sum(-1), axis=1)
    assert (found == label).mean() > 0.97


def test_mixture_is_a_fixed_point_of_em_with_free_proportions():
    z, _ = unequal_spheres()
    centres, share, variance = centre_files.mixture(z, np.array([(-1.0, 0), (3, 0)]), iterations=200)
    np.testing.assert_allclose(share.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(share[1], 60 / 3060, atol=0.01)
    np.testing.assert_allclose(variance, 1, atol=0.05)
    np.testing.assert_allclose(share @ centres, z.mean(axis=0), atol=1e-4)  # nothing is lost
    density = [s * np.exp(-((z - c) ** 2).sum(1) / (2 * variance)) for c, s in zip(centres, share, strict=True)]
    belongs = np.array(density) / np.sum(density, axis=0)
    np.testing.assert_allclose(belongs @ z / belongs.sum(1, keepdims=True), centres, atol=1e-3)


def test_codes_are_grouped_by_weighted_kmeans_largest_first():
    rng = np.random.default_rng(0)
    middles, usage_of = np.array([(0, 9), (9, 0), (-9, -9)]), np.array([2, 30, 7])
    true = rng.integers(0, 3, 300)
    codes = (middles[true] + rng.normal(size=(300, 2))).astype(np.float32)
    usage = usage_of[true] * (rng.uniform(size=300) < 0.8)
    assert (usage == 0).any()  # codes that were never used belong to the nearest group, too
    centres = centre_files.from_codes(codes, usage, 3, 5, 0)
    np.testing.assert_array_equal(centres.group_C, np.array([2, 0, 1])[true])
    np.testing.assert_array_equal(centres.centres_CxM, codes)
    np.testing.assert_array_equal(centres.projection_DxM, np.eye(2))


def test_heavily_used_codes_pull_the_groups():
    """Five codes on a line: where they are cut in two depends on which are used."""
    codes, cuts = np.arange(5, dtype=np.float32)[:, None] ** 1.2, []
    for usage in ((1000, 1000, 1, 1, 1), (1, 1, 1, 1000, 1000)):
        group = centre_files.from_codes(codes, usage, 2, 5, 0).group_C
        cuts.append(int(np.flatnonzero(np.diff(group))[0]))
        assert group[np.argmax(usage)] in (0, 1) and np.bincount(group, weights=usage).argmax() == 0
    assert cuts[0] < cuts[1]


def test_with_clusters_enough_each_used_code_is_its_own_label():
    codes = np.array([(0, 0), (5, 0), (5.2, 0), (0, 5)], np.float32)
    for clusters in (3, 4, 254):
        group = centre_files.from_codes(codes, (10, 0, 40, 20), clusters, 2, 0).group_C
        np.testing.assert_array_equal(group, [2, 0, 0, 1])  # by usage; the second joins the third
    with pytest.raises(UserError, match="segment.clusters is 255"):
        centre_files.from_codes(codes, (1, 1, 1, 1), 255, 2, 0)
    with pytest.raises(UserError, match="codebook"):
        centre_files.from_codes(codes, (0, 0, 0, 0), 2, 2, 0)


@given(st.integers(1, 300), st.integers(1, 600), st.integers(1, 150), st.integers(1, 6000))
def test_slices_at_once_leave_least_of_their_batches_empty(per_slice, batch, number, most):
    at_once = driver._slices_at_once(per_slice, batch, number, most)
    assert 1 <= at_once <= number and (at_once == 1 or at_once * per_slice <= most)
    batches = lambda s: math.ceil(number / s) * math.ceil(s * per_slice / batch)  # noqa: E731
    allowed = [s for s in range(1, number + 1) if s * per_slice <= most] or [1]
    assert batches(at_once) == min(map(batches, allowed))


def test_slices_of_a_large_plane_fill_their_batches():
    """195 fields of view a slice in batches of 64: one slice at a time would leave 61 of 256 places empty."""
    at_once = driver._slices_at_once(195, 64, 128, driver.GROUP_BYTES // (4 * 4 * 256))
    places = 128 // at_once * math.ceil(at_once * 195 / 64) * 64
    assert 128 % at_once == 0 and places < 1.01 * 128 * 195
