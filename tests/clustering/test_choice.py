"""How many clusters: prediction strength against pairs counted one by one, and on data whose number is known."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from his4mae_jax.clustering.choice import Choice, compare, prediction_strength
from his4mae_jax.clustering.sampling import Sample
from his4mae_jax.clustering.whitening import noise_whitening

LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


@given(LABELS)
def test_prediction_strength_is_the_share_of_pairs_that_stay_together(pairs):
    own, other = np.array(pairs).T
    strength = prediction_strength(own, other, 4)
    for cluster in range(4):
        members = list(itertools.combinations(np.flatnonzero(own == cluster), 2))
        together = sum(other[a] == other[b] for a, b in members)
        assert strength[cluster] == pytest.approx(together / len(members) if members else 0)


def mixture_sample(groups, noise, count=4000, seed=0):
    """Features of `groups` well apart centres all over a volume, with noise of tokens."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(groups, 1), 6)) * 4
    features = centres[rng.integers(0, max(groups, 1), count)] + rng.normal(size=(count, 6))
    steps = noise * rng.normal(size=(500, 6))
    return Sample(features.astype(np.float32), rng.integers(0, 64, (count, 3)), [steps.astype(np.float32)])


def white_of(sample):
    return noise_whitening(sample.features_MxD, *sample.noises)


@pytest.mark.parametrize("whitened", [True, False])
def test_the_number_of_groups_is_found(whitened):
    lines, sample = [], mixture_sample(4, 1.0)
    choice = compare(
        sample, (2, 3, 4, 5, 6), white_DxD=white_of(sample) if whitened else None, seed=0, log=lines.append
    )
    assert choice.clusters == (2, 3, 4, 5, 6) and choice.best == 4
    assert choice.weakest[2] > 0.95 and max(choice.weakest[3:]) < 0.9
    gains = np.diff(choice.likelihood)
    assert gains[1] > 0.2 and gains[2] < 0.1 * gains[1]  # nothing is gained beyond the fourth
    assert "up to 4 clusters are found again" in choice.text()
    assert Choice.from_json(json.loads(json.dumps(choice.to_json()))) == choice


def test_one_cloud_has_no_clusters():
    sample = mixture_sample(1, 1.0)
    choice = compare(sample, (3, 5, 8), white_DxD=white_of(sample), seed=0, log=lambda line: None)
    assert choice.best is None and "labels may say little" in choice.text()


def test_small_samples_are_measured_as_far_as_they_go():
    sample = mixture_sample(2, 1.0, count=150)
    assert compare(sample, (2, 3, 12), white_DxD=white_of(sample), seed=0, log=lambda line: None).clusters == (2, 3)
    empty = Sample(np.zeros((0, 6), np.float32), np.zeros((0, 3), int), [])
    assert compare(empty, (2, 3), white_DxD=None, seed=0, log=lambda line: None) is None


@pytest.mark.parametrize("value", [None, {}, {"clusters": [2]}, {"clusters": 3, "weakest": [1], "mean": [1]}, [1]])
def test_a_damaged_record_is_none(value):
    assert Choice.from_json(value) is None
