"""A hidden layer applied by inference: labels of tiles are those of the whole, and what single features say."""

import numpy as np
import pytest

from his4mae_jax.clustering.centres import Classes, linear_scores
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
