"""Classifiers with texture or a hidden layer, applied: labels of tiles are those of the whole, and of single voxels."""

import numpy as np
import pytest

from his4mae_jax.clustering.centres import Centres, Classes, linear_scores
from his4mae_jax.probe.features import features_at
from his4mae_jax.probe.heads import fit_hidden


@pytest.mark.parametrize("how", [dict(axes="zyx", smooth=0.7), dict(shifts=2)], ids=str)
def test_a_hidden_layer_is_applied_to_smoothed_lattices(make_encoder, blobs, how):
    volume, rng, encoder = blobs((45, 47, 53)), np.random.default_rng(0), make_encoder(**how)
    index = np.stack([rng.integers(0, n, 600) for n in volume.shape], axis=1)
    features = features_at(encoder, volume, tuple(slice(0, n) for n in volume.shape), index)
    along = (features - features.mean(axis=0)) @ np.linalg.svd(features - features.mean(axis=0))[2][0]
    classes = (along > np.median(along)).astype(int)
    head = fit_hidden(features, classes, 0.3, width=6)
    scores = linear_scores({2: Classes(("low", "high"), head.weights_KxH, head.offset_K, head.hidden)})
    whole = encoder.labels(volume, scores)[2]
    tiled = make_encoder(tile=30, **how).labels(volume, scores)[2]
    assert (tiled == whole).mean() > 0.999 and set(np.unique(whole)) == {1, 2}
    # Between lattice points logits are interpolated in place of features: most voxels agree.
    assert (head.logits(features).argmax(axis=1) + 1 == whole[tuple(index.T)]).mean() > 0.8


@pytest.mark.parametrize("how", [dict(axes="zyx", smooth=0.7), dict(axes="z", shifts=2)], ids=str)
def test_texture_is_applied_to_the_lattice_as_it_was_fitted(make_encoder, blobs, how):
    volume, rng = blobs((45, 47, 53)), np.random.default_rng(0)
    encoder = make_encoder(**how).textured(1.0)
    index = np.stack([rng.integers(0, n, 400) for n in volume.shape], axis=1)
    features = features_at(encoder, volume, tuple(slice(0, n) for n in volume.shape), index)
    dim = encoder.coverage.dim
    plain = features_at(make_encoder(**how), volume, tuple(slice(0, n) for n in volume.shape), index)
    np.testing.assert_allclose(features[:, :dim], plain, atol=1e-5)
    # Classes of the texture alone: linear in it, so labels are those of single voxels.
    weights = np.concatenate([np.zeros((2, dim)), rng.normal(size=(2, dim))], axis=1).astype(np.float32)
    offset = -np.median(features @ weights.T, axis=0).astype(np.float32)
    scores = linear_scores({2: Classes(("one", "two"), weights, offset, texture=1.0)})
    whole = encoder.labels(volume, scores)[2]
    assert set(np.unique(whole)) == {1, 2}
    assert ((features @ weights.T + offset).argmax(axis=1) + 1 == whole[tuple(index.T)]).mean() > 0.995
    # Tiles see as far as the wider Gaussian reaches; clusters beside the classes take the means alone.
    beside = linear_scores({3: Centres(plain[:3], np.eye(dim, dtype=np.float32))})
    tiled = make_encoder(tile=30, **how).textured(1.0).labels(volume, {**scores, **beside})
    assert (tiled[2] == whole).mean() > 0.999
    assert (tiled[3] == make_encoder(**how).labels(volume, beside)[3]).mean() > 0.999
    with pytest.raises(ValueError, match="textured"):
        make_encoder(**how).labels(volume, scores)
