"""Expand-stride: geometry, averaging, linear expansion, and score maps against features."""

import functools
import types

import jax
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.inference import expand_stride as es
from his4mae_jax.inference import lattice, score_maps
from his4mae_jax.inference.encode import in_batches

FOV, PATCH = 20, 5


@functools.lru_cache
def random_encoder(dim=6):
    """A stand-in encoder whose tokens depend on their patch and on the whole field of view."""
    rng = np.random.default_rng(0)
    mix, context = (rng.normal(size=(PATCH**2, dim)).astype(np.float32) for _ in range(2))

    def encode(images):
        g = FOV // PATCH
        patches = images.reshape(-1, g, PATCH, g, PATCH).transpose(0, 1, 3, 2, 4).reshape(-1, g, g, PATCH**2)
        return jax.numpy.tanh(patches @ mix) + (patches.mean((1, 2), keepdims=True) @ context)

    return encode


def token_grid(encode, slices, rows, cols):
    """`es.token_grid` of `AxisTile`s, whose voxels the slices are from the first on."""
    return es.token_grid(encode, jax.numpy.asarray(slices), rows.arrays(0), cols.arrays(0), fov=FOV, batch=7)


@pytest.mark.parametrize("length", [5, 17, 20, 21, 39, 40, 43, 61, 100])
@pytest.mark.parametrize("stride", [5, 10, 20])
@pytest.mark.parametrize("overhang", [0, 5, 10, 15, 40])
def test_fields_of_view_cover_every_token(length, stride, overhang):
    origins = es.fov_origins(length, FOV, PATCH, stride, overhang)
    assert (origins % PATCH == 0).all()
    tokens = -(-length // PATCH)
    assert (seen_by(origins, tokens) > 0).all()
    assert (np.diff(origins) <= stride).all() and (np.diff(origins) > 0).all()
    assert origins[0] >= -overhang and origins[-1] <= max(tokens * PATCH, FOV) - FOV + overhang


def seen_by(origins, tokens):
    """By how many fields of view each token of a slice is seen."""
    return np.array([sum(o <= t * PATCH < o + FOV for o in origins) for t in range(tokens)])


@pytest.mark.parametrize("stride", [5, 10])
@pytest.mark.parametrize("strides", [4, 7, 12])
def test_with_overhang_border_tokens_are_seen_as_often_as_inner_ones(stride, strides):
    tokens = strides * stride // PATCH
    without, with_overhang = (
        seen_by(es.fov_origins(strides * stride, FOV, PATCH, stride, overhang), tokens)
        for overhang in (0, FOV - stride)
    )
    assert without[0] == without[-1] == 1
    assert (with_overhang == FOV // stride).all()


def test_overhanging_fields_of_view_are_counted():
    assert es.count_fovs((1, 40, 60), FOV, PATCH, 10, "z", overhang=10) == 5 * 7
    assert es.count_fovs((1, 40, 60), FOV, PATCH, 10, "z") == 3 * 5


def test_fov_counts_are_those_of_the_paper_sized_volume():
    """DESIGN's counts for a slice of high_c4, 545 x 1082: S = 80, 40, 20."""
    counts = [es.count_fovs((1, 545, 1082), 80, 5, stride, "z") for stride in (80, 40, 20)]
    assert counts == [98, 351, 1300]
    assert es.count_fovs((100, 100, 100), 80, 5, 40, "zyx") == 3 * 20 * 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 50))
def test_reflection_is_numpys(length, extra):
    want = np.pad(np.arange(length), (extra, extra), mode="reflect") if length > 1 else np.zeros(1 + 2 * extra, int)
    np.testing.assert_array_equal(es.reflect(np.arange(-extra, length + extra), length), want)


def naive_grid(encode, image, stride, edge_weight):
    """One slice by loops: every field of view, weighted and averaged token by token."""
    H, W = image.shape
    g = FOV // PATCH
    rows, cols = es.fov_origins(H, FOV, PATCH, stride), es.fov_origins(W, FOV, PATCH, stride)
    height, width = rows[-1] + FOV, cols[-1] + FOV
    padded = np.pad(image, ((0, height - H), (0, width - W)), mode="reflect")
    total, weight = np.zeros((height // PATCH, width // PATCH, 6)), np.zeros((height // PATCH, width // PATCH, 1))
    for r in rows:
        for c in cols:
            tokens = np.asarray(encode(padded[None, r : r + FOV, c : c + FOV]))[0]
            for i in range(g):
                for j in range(g):
                    inner = [edge_weight + (1 - edge_weight) * min(k, g - 1 - k) / (g // 2 - 1) for k in (i, j)]
                    total[r // PATCH + i, c // PATCH + j] += inner[0] * inner[1] * tokens[i, j]
                    weight[r // PATCH + i, c // PATCH + j] += inner[0] * inner[1]
    return total / weight


def naive_expand(grid, H, W):
    """Token i sits at pixel 5 i + 2; linear between tokens, constant outside the outermost."""
    out = np.empty((H, W, grid.shape[-1]))
    for y in range(H):
        for x in range(W):
            v, u = np.clip((y - 2) / 5, 0, grid.shape[0] - 1), np.clip((x - 2) / 5, 0, grid.shape[1] - 1)
            i, j = min(int(v), grid.shape[0] - 2), min(int(u), grid.shape[1] - 2)
            a, b = v - i, u - j
            out[y, x] = (1 - a) * ((1 - b) * grid[i, j] + b * grid[i, j + 1]) + a * (
                (1 - b) * grid[i + 1, j] + b * grid[i + 1, j + 1]
            )
    return out


def tiles_of(shape, stride, edge_weight=0.25):
    return [es.axis_tile(n, (0, n), FOV, PATCH, stride, edge_weight=edge_weight) for n in shape]


def in_plane(grid, rows, cols):
    """Expansion of slices taken at every voxel."""
    return np.asarray(lattice.expand(grid, (es.dense_tile(len(grid), (0, len(grid))), rows, cols)))


@pytest.mark.parametrize("shape", [(20, 20), (33, 47), (18, 52)])
@pytest.mark.parametrize("stride", [10, 20])
def test_grid_and_expansion_equal_loops(shape, stride):
    image = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
    rows, cols = tiles_of(shape, stride)
    grid = token_grid(random_encoder(), image[None], rows, cols)
    want = naive_grid(random_encoder(), image, stride, 0.25)
    # Tokens of padding alone are never written, so the plan may leave them out.
    np.testing.assert_allclose(grid[0], want[: grid.shape[1], : grid.shape[2]], atol=1e-5)
    np.testing.assert_allclose(in_plane(grid, rows, cols)[0], naive_expand(want, *shape), atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(18, 60), st.integers(18, 60), st.sampled_from([5, 10, 20]), st.integers(2, 8),
    st.floats(0.1, 1.0), st.integers(0, 10**6),
)  # fmt: skip
def test_score_maps_give_the_labels_of_full_features(H, W, stride, clusters, edge_weight, seed):
    """The identity the whole inference path rests on (DESIGN section 2, "score maps")."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(size=(1, H, W)).astype(np.float32)
    centres = rng.normal(size=(clusters, 6)).astype(np.float32)
    rows, cols = tiles_of((H, W), stride, edge_weight)
    linear = (-2 * centres, (centres**2).sum(1))
    project = lambda x: score_maps.scores(random_encoder()(x), *linear)  # noqa: E731
    along = es.dense_tile(1, (0, 1)), rows, cols

    @jax.jit
    def both(image):
        maps = lattice.expand(token_grid(project, image, rows, cols), along)
        return score_maps.nearest(maps, (clusters,))[0, 0], lattice.expand(
            token_grid(random_encoder(), image, rows, cols), along
        )[0]

    found, features = (np.asarray(x) for x in both(image))
    distance = ((features[:, :, None] - centres) ** 2).sum(-1)
    nearest = np.take_along_axis(distance, found[..., None].astype(int) - 1, -1)[..., 0]
    np.testing.assert_allclose(nearest, distance.min(-1), atol=1e-4)
    clear = np.sort(distance, axis=-1)
    clear = clear[..., 1] - clear[..., 0] > 1e-3  # not within rounding of a tie
    np.testing.assert_array_equal(found[clear], 1 + distance.argmin(-1)[clear])


def test_several_clusterings_are_told_apart():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 3, 4, 8)).astype(np.float32)
    both = np.asarray(score_maps.nearest(maps, (3, 5)))
    np.testing.assert_array_equal(both[0], 1 + maps[..., :3].argmin(-1))
    np.testing.assert_array_equal(both[1], 1 + maps[..., 3:].argmin(-1))


def test_labels_are_those_of_the_groups():
    """Also of more centres than uint8 holds: their numbers must not wrap before they are grouped."""
    maps = np.random.default_rng(0).normal(size=(20, 30, 40, 305)).astype(np.float32)
    group = (np.arange(300) * 7 % 251).astype(np.uint8)
    both = np.asarray(score_maps.nearest(maps, (300, 5), [jax.numpy.asarray(group), None]))
    assert both.dtype == np.uint8
    np.testing.assert_array_equal(both[0], 1 + group[maps[..., :300].argmin(-1)])
    np.testing.assert_array_equal(both[1], 1 + maps[..., 300:].argmin(-1))


@pytest.mark.parametrize("length", [5, 20, 43])
def test_nearest_expansion_repeats_each_token_over_its_patch(length):
    """Shares of 0 and 1 in the plan, for the whole axis and for parts of it."""
    grid = np.random.default_rng(0).normal(size=(max(-(-length // PATCH), FOV // PATCH), 1, 1, 2)).astype(np.float32)
    want = np.repeat(grid, PATCH, axis=0)[:length]
    plane = es.dense_tile(1, (0, 1))
    for write in ((0, length), (length // 2, length), (1, length // 2)):
        tile = es.axis_tile(length, write, FOV, PATCH, 10, expansion="nearest")
        assert set(tile.fraction) <= {0.0, 1.0}
        first = np.arange(length)[slice(*write)] // PATCH - tile.lower - tile.fraction.astype(int)
        assert (first == first[0]).all()  # where the lattice kept begins on the whole axis
        kept = grid[first[0] : first[0] + tile.points]
        np.testing.assert_array_equal(lattice.expand(kept, (tile, plane, plane)), want[slice(*write)])


@pytest.mark.parametrize("expansion", ["linear", "nearest"])
def test_features_at_voxels_are_those_of_the_expansion(expansion):
    rng = np.random.default_rng(0)
    shape = (21, 33, 47)
    tiles = [es.axis_tile(n, (0, n), FOV, PATCH, 10, expansion=expansion) for n in shape]
    grid = rng.normal(size=(*(t.points for t in tiles), 6)).astype(np.float32)
    index = np.stack([rng.integers(0, n, 200) for n in shape], axis=1)
    index[:2] = [(0, 0, 0), (20, 32, 46)]
    full = np.asarray(lattice.expand(grid, tiles))
    np.testing.assert_allclose(lattice.at_voxels(grid, tiles, index), full[tuple(index.T)], atol=1e-5)


def test_smoothing_is_a_gaussian_and_linear():
    rng = np.random.default_rng(0)
    tiles = tiles_of((40, 45, 50), 10)
    grid = rng.normal(size=(*(t.points for t in tiles), 2)).astype(np.float32)
    smoothed = lattice.smooth(grid, [lattice.smoothing_matrix(t, 0.8) for t in tiles])
    want = scipy.ndimage.gaussian_filter(grid, (0.8, 0.8, 0.8, 0), mode="reflect", radius=(3, 3, 3, 0))
    np.testing.assert_allclose(smoothed, want, atol=1e-5)


@pytest.mark.parametrize("features", [3, 16, 37])
def test_texture_is_the_spread_within_a_gaussian(features):
    grid = np.random.default_rng(0).normal(size=(9, 8, 7, features)).astype(np.float32)
    matrices = [lattice.smoothing_matrix(types.SimpleNamespace(points=n, scale=1.0), 1.5) for n in grid.shape[:3]]

    def gaussian(x):
        return scipy.ndimage.gaussian_filter(x.astype(np.float64), (1.5, 1.5, 1.5, 0), mode="reflect", radius=5)

    wanted = np.sqrt(np.maximum(gaussian(np.square(grid, dtype=np.float64)) - gaussian(grid) ** 2, 0))
    spread = lattice.texture(jax.numpy.asarray(grid), lambda x: lattice.smooth(x, matrices))
    np.testing.assert_allclose(spread, np.maximum(wanted, 1e-3), atol=1e-4)


@pytest.mark.parametrize(("smooth", "wide"), [(0.0, 0.0), (0.7, 0.0), (0.7, 1.5), (0.0, 1.0)])
def test_few_voxels_have_the_values_of_the_whole_lattice(smooth, wide):
    rng, shape = np.random.default_rng(0), (21, 33, 47)
    tiles = [es.dense_tile(21, (2, 15), 12, 2.5), *(es.axis_tile(n, (0, n), FOV, PATCH, 10) for n in shape[1:])]
    grid = rng.normal(size=(*(t.points for t in tiles), 19)).astype(np.float32)
    index = np.stack([rng.integers(0, len(t.lower), 60) for t in tiles], axis=1)
    index[:2] = [(0, 0, 0), [len(t.lower) - 1 for t in tiles]]

    def smoothed(sigma):
        return lambda x: lattice.smooth(x, [lattice.smoothing_matrix(t, sigma) for t in tiles])

    whole = [smoothed(smooth)(grid) if smooth else grid]
    if wide:
        whole.append(lattice.texture(jax.numpy.asarray(grid), smoothed(wide)))
    wanted = lattice.at_voxels(np.concatenate(whole, axis=-1), tiles, index)
    np.testing.assert_allclose(lattice.few_at_voxels(grid, tiles, index, smooth, wide), wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [(70, 9, 41), (100, 64, 33)])
def test_entries_near_the_diagonal_are_all_there_are(shape):
    tiles = [types.SimpleNamespace(points=n, scale=scale) for n, scale in zip(shape, (1, 1, 2.5), strict=True)]
    matrices = [lattice.smoothing_matrix(tile, 0.7) for tile in tiles]
    reaches = [lattice.reach(0.7, tile.scale) for tile in tiles]
    grid = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    near = lattice.smooth(jax.numpy.asarray(grid), matrices, reaches)
    np.testing.assert_allclose(near, lattice.smooth(jax.numpy.asarray(grid), matrices), atol=1e-6)


def test_lattice_of_a_dense_axis_is_every_voxel():
    tile = es.dense_tile(30, (10, 20), halo=4)
    assert tile.read == (6, 24) and tile.points == 18
    np.testing.assert_array_equal(tile.lower + tile.read[0], np.arange(10, 20))
    assert (tile.fraction == 0).all()


def test_slices_are_cut_at_the_middle_of_tokens():
    tile = es.axis_tile(43, (0, 43), FOV, PATCH, 10)
    np.testing.assert_array_equal(tile.slices[:8], np.arange(8) * 5 + 2)
    assert tile.slices.max() < 43


def test_constant_images_have_no_seams():
    image = np.full((1, 53, 61), 0.4, np.float32)
    rows, cols = tiles_of((53, 61), 10)
    features = in_plane(token_grid(random_encoder(), image, rows, cols), rows, cols)
    assert np.ptp(features, axis=(1, 2)).max() < 1e-5


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 20])
def test_in_batches(rows):
    x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    np.testing.assert_array_equal(in_batches(lambda b: b * 2 + 1, x, 7), x * 2 + 1)
