"""Features of annotated voxels: the right ones at the right voxels; their map by UMAP; a package that is missing."""

import functools
import importlib.util
import sys

import jax
import numpy as np
import pytest

from his4mae_jax.compare import features_umap
from his4mae_jax.pretext import maester


@pytest.fixture
def make(tiny, make_encoder):
    tiny.method = "maester"
    models = maester.build(tiny)
    params = jax.jit(lambda: maester.init_params(jax.random.key(0), models)["encoder"])()

    return functools.partial(make_encoder, models=models, params=params, batch_fovs=8)


@pytest.fixture
def volumes(memory):
    """An image, and 40 annotated voxels, each of a class of its own: the class tells the voxel."""
    rng, shape = np.random.default_rng(0), (25, 27, 33)
    labels = np.full(shape, 255, np.uint8)
    labels.ravel()[rng.choice(labels.size, 40, replace=False)] = np.arange(40)
    return memory(rng.integers(0, 256, shape).astype(np.uint8)), memory(labels)


@pytest.mark.parametrize("how", [dict(axes="zyx", smooth=0.7), dict(inference="cover")], ids=str)
def test_features_are_those_that_are_clustered(make, volumes, how):
    image, labels = volumes
    whole = make(**how)
    (tile,) = whole.coverage.tiles(image.shape)
    everywhere = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij"), -1)
    if "smooth" in how:
        expected = whole.features_at(image, tile, everywhere.reshape(-1, 3)).reshape(*image.shape, -1)
    else:
        expected = whole.lattices(image, tile)[0][0]
    at = {int(labels.array[tuple(v)]): expected[tuple(v)] for v in np.argwhere(labels.array != 255)}
    features, classes = features_umap.annotated_features(make(tile=20, **how), image, labels, max_tiles=99, seed=0)
    assert sorted(classes.tolist()) == list(range(40))  # all of them, once
    np.testing.assert_allclose(features, np.stack([at[c] for c in classes]), atol=1e-4)


def test_voxels_are_seeded_few_and_in_few_tiles(make, volumes, memory):
    image, labels = volumes
    encoder = make(tile=20)

    def classes(**how):
        return features_umap.annotated_features(encoder, image, labels, **how)[1].tolist()

    assert len(classes(count=10, max_tiles=99, seed=0)) == 10
    assert classes(count=10, max_tiles=99, seed=0) == classes(count=10, max_tiles=99, seed=0)
    assert classes(count=10, max_tiles=99, seed=0) != classes(count=10, max_tiles=99, seed=1)
    one = np.argwhere(np.isin(labels.array, classes(max_tiles=1, seed=0)))
    assert 0 < len(one) < 40 and len(np.unique(one // (5, 40, 40), axis=0)) == 1
    empty = memory(np.full(labels.shape, 255, np.uint8))
    features, none = features_umap.annotated_features(encoder, image, empty, max_tiles=9, seed=0)
    assert features.shape == (0, 8) and none.shape == (0,)


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="needs umap-learn")
def test_umap_keeps_groups_apart_and_is_the_same_each_time():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 30)
    features = rng.normal(size=(60, 8)).astype(np.float32) + 40 * groups[:, None]
    position = features_umap.embed(features, seed=3)
    assert position.shape == (60, 2)
    np.testing.assert_array_equal(position, features_umap.embed(features, seed=3))
    centre = np.stack([position[groups == g].mean(axis=0) for g in (0, 1)])
    nearest = np.argmin(((position[:, None] - centre) ** 2).sum(-1), axis=1)
    np.testing.assert_array_equal(nearest, groups)


def test_tensorflow_stays_out(monkeypatch):
    with features_umap._hidden("his4mae_no_such_module"):
        with pytest.raises(ImportError):
            import his4mae_no_such_module  # noqa: F401
    assert "his4mae_no_such_module" not in sys.modules
    with features_umap._hidden("json"):
        assert sys.modules["json"] is not None  # imported before: left as it is
