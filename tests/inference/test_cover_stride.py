"""Cover-stride: which field of view gives a pixel its token, aligned with the middle of its patch."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.clustering.sampling import sample
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.inference import cover_stride as cs
from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.volume_encoder import VolumeEncoder


class Memory:
    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def read(self, slices):
        return self.array[slices]


def make(tokens_of, dim, fov, patch, **changes):
    """With a stand-in encoder: `tokens_of` maps patches (B, N, P) to tokens (B, N, dim)."""
    encoder = types.SimpleNamespace(
        grid=(fov // patch, fov // patch), embed_dim=dim, apply=lambda params, patches: tokens_of(patches)
    )
    models = types.SimpleNamespace(encoder=encoder, patch_size=patch)
    coverage = Coverage.of_models(models, inference="cover", **{**dict(axes="z", tile=1000), **changes})
    return VolumeEncoder(models, {}, Contrast(0, 255), coverage, batch_fovs=32)


def label(encoder, volume, centres):
    out, size = np.zeros(volume.shape, np.uint8), len(centres)
    scores = LinearScores(-2 * centres, (centres**2).sum(1))
    for tile, labels, _ in encoder.label(volume, {size: scores}):
        assert (out[tile.write] == 0).all()  # no voxel is written twice
        out[tile.write] = labels[size]
    return out


def noise(shape):
    return Memory(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def mean_and_square(patches):
    m = patches.mean(-1)
    return jnp.stack([m, 3 * m**2], axis=-1)


def centred_means(volume, axis, patch):
    """At each voxel, the mean over the patch around it in the slice across `axis`, by loops."""
    array = np.moveaxis(volume.array / 255, axis, 0)
    # Pixel p's patch begins at p - patch // 2: around p where odd, half a pixel early where even.
    before, after = patch // 2, patch - 1 - patch // 2
    padded = np.pad(array, ((0, 0), (before, after), (before, after)), mode="reflect")
    out = np.empty(array.shape)
    for r in range(array.shape[1]):
        for c in range(array.shape[2]):
            out[:, r, c] = padded[:, r : r + patch, c : c + patch].mean(axis=(1, 2))
    return np.moveaxis(out, 0, axis)


@pytest.mark.parametrize("axes", ["z", "x", "zyx"])
@pytest.mark.parametrize(("fov", "patch"), [(20, 5), (15, 5), (16, 4)])
def test_labels_are_those_of_the_patch_around_each_pixel(axes, fov, patch):
    volume = noise((17, 19, 23))
    features = [np.stack([m, 3 * m**2], -1) for m in (centred_means(volume, "zyx".index(a), patch) for a in axes)]
    features = np.mean(features, axis=0)
    centres = np.quantile(features.reshape(-1, 2), [0.1, 0.35, 0.6, 0.9], axis=0).astype(np.float32)
    distance = ((features[..., None, :] - centres) ** 2).sum(-1)
    found = label(make(mean_and_square, 2, fov, patch, axes=axes), volume, centres)
    clear = np.sort(distance, axis=-1)
    clear = clear[..., 1] - clear[..., 0] > 1e-4  # not within rounding of a tie
    assert clear.mean() > 0.98 and len(np.unique(found)) == 4
    np.testing.assert_array_equal(found[clear], 1 + distance.argmin(-1)[clear])


def test_features_of_the_fit_are_aligned_too():
    volume = noise((17, 19, 23))
    made = make(mean_and_square, 2, 20, 5, axes="zyx")
    (tile,) = made.coverage.tiles(volume.shape)
    index = np.random.default_rng(1).integers(0, volume.shape, (100, 3))
    for axis, found in enumerate(made.cover_features(volume.array, tile, index)):
        m = centred_means(volume, axis, 5)[tuple(index.T)]
        np.testing.assert_allclose(found, np.stack([m, 3 * m**2], -1), atol=1e-5)
    sampled = sample(made, volume, 0.1, 1, seed=0)
    features, (steps, views) = sampled.features_MxD, sampled.noises
    assert len(features) == len(views) // 3 and features.shape[1] == 2
    assert 0.5 * 3 * len(features) < len(steps) < 3 * len(features)  # not across the border


def test_only_central_tokens_of_the_middle_of_a_field_of_view_are_kept():
    """Tokens that tell their place, and their field of view by its mean, against the definition."""
    assert [cs.central_tokens(g) for g in (1, 2, 3, 4, 5, 8, 16)] == [
        (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (3, 2), (6, 4),
    ]  # fmt: skip

    def place_and_mean(patches):
        B, N, _ = patches.shape
        place = jnp.broadcast_to(jnp.arange(N, dtype=jnp.float32), (B, N))
        return jnp.stack([place, jnp.broadcast_to(patches.mean((1, 2))[:, None], (B, N))], axis=-1)

    volume = noise((1, 33, 47))
    made = make(place_and_mean, 2, 40, 5)
    (tile,) = made.coverage.tiles(volume.shape)
    found = made.lattices(volume, tile)[0][0][0]
    padded = np.pad(volume.array[0] / 255, 32, mode="reflect")
    for r, c in ((0, 0), (4, 9), (5, 10), (16, 23), (32, 46), (31, 3)):
        # Blocks of 2 tokens of 5 pixels; the third of the 8 tokens of a field of view is the first kept.
        origin = [p // 10 * 10 + p % 5 - 2 - 15 for p in (r, c)]
        row, col = (3 + p // 5 % 2 for p in (r, c))
        fov = padded[32 + origin[0] :][:40, 32 + origin[1] :][:, :40]
        np.testing.assert_allclose(found[r, c], (row * 8 + col, fov.mean()), rtol=1e-5)
    places = np.unique(found[..., 0]).astype(int)
    np.testing.assert_array_equal(places, [27, 28, 35, 36])


@pytest.mark.parametrize("fov", [15, 20, 40])
@pytest.mark.parametrize("axes", ["z", "zyx"])
def test_counts_are_the_fields_of_view_encoded(fov, axes):
    shape = (43, 51, 60)
    counts = set()
    for tile in (1000, 3 * cs.block_size(fov, 5)):
        made = make(mean_and_square, 2, fov, 5, axes=axes)
        total = 0
        tiling = made.coverage.tiles(shape, tile)
        for (grid,) in (tile.grids for tile in tiling):
            for axis in ("zyx".index(a) for a in axes):
                rows, cols = (grid[i] for i in range(3) if i != axis)
                total += len(grid[axis].slices) * len(rows.origins) * len(cols.origins)
        counts.add(total)
    assert counts == {made.coverage.count_fovs(shape)}


def test_count_beside_the_releases_on_a_slice_of_the_papers_volume():
    assert cs.block_size(80, 5) == 20
    assert cs.count_fovs((1, 545, 1082), 80, 5, "z") == 140 * 272 == 38_080
    assert cs.count_fovs((7, 545, 1082), 80, 5, "z") == 7 * 38_080


@pytest.mark.parametrize("write", [(0, 60), (0, 7), (23, 41), (59, 60)])
def test_plans_of_parts_are_those_of_the_whole(write):
    """The field of view of each pixel, in pixels of the volume, whatever the tile."""
    whole, part = (cs.axis_tile(60, w, 40, 5) for w in ((0, 60), write))

    def views(tile):
        number, within = np.divmod(tile.token, 2)
        return np.c_[tile.pixels[tile.origins[number][:, None] + np.arange(40)], within]

    np.testing.assert_array_equal(views(part), views(whole)[slice(*write)])
    assert part.read[0] >= 0 and part.read[1] <= 60
    np.testing.assert_array_equal(part.slices, np.arange(*write))
    assert len(part.origins) <= len(set(np.arange(*write)))  # none that gives no pixel
