"""Dice, the two ways to match clusters to classes, and the messages for labels that do not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from his4mae_jax.data.volumes.labels import IGNORE, UNLABELLED
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation import dice

NAMES = ["nucleus", "mitochondria", "granules"]


class ArrayVolume:
    """An in-memory volume that remembers the largest box it was asked for."""

    def __init__(self, array, name="labels.tif"):
        self.array, self.name, self.largest = np.asarray(array), name, 0
        self.shape, self.dtype = self.array.shape, self.array.dtype
        self.voxel_size_nm = (8.0, 8.0, 8.0)

    def read(self, where):
        box = self.array[where]
        self.largest = max(self.largest, box.size)
        return box


def labels(*ids):
    return ArrayVolume(np.array(ids, np.uint8).reshape(1, 1, -1))


confusions = st.tuples(st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.int64, (shape[0] + 1, shape[1]), elements=st.integers(0, 6))
)


def names_for(confusion):
    return [f"class {i}" for i in range(confusion.shape[1])]


def test_confusion_counts_what_is_scored():
    truth = labels(0, 0, 0, 1, 1, IGNORE, IGNORE)
    clusters = labels(1, 1, 2, 2, UNLABELLED, 1, UNLABELLED)
    # Columns are classes; the last row is the voxel of class 1 without a prediction.
    expected = [[2, 0], [1, 1], [0, 0], [0, 1]]
    assert dice.confusion(clusters, truth, 3, 2).tolist() == expected


def test_confusion_is_blockwise_and_equals_a_plain_count():
    rng = np.random.default_rng(0)
    truth = ArrayVolume(rng.choice([0, 1, 2, IGNORE], size=(70, 300, 260)).astype(np.uint8))
    clusters = ArrayVolume(rng.choice([1, 2, UNLABELLED], size=truth.shape).astype(np.uint8))
    found = dice.confusion(clusters, truth, 2, 3)
    for row, cluster in enumerate([1, 2, UNLABELLED]):
        for klass in range(3):
            both = (clusters.array == cluster) & (truth.array == klass)
            assert found[row, klass] == np.count_nonzero(both)
    assert max(truth.largest, clusters.largest) <= 64 * 256 * 256


def test_truth_may_have_any_integer_type():
    clusters = labels(1, 2, 2)
    for dtype in (np.uint16, np.int32, np.int64, bool):
        truth = ArrayVolume(np.array([[[0, 1, 1]]], dtype))
        assert dice.confusion(clusters, truth, 2, 2).tolist() == [[1, 0], [0, 2], [0, 0]]


def test_dice_by_hand():
    # Class sizes 10 and 6; cluster sizes 8 and 6; two voxels of class 1 have no prediction.
    confusion = np.array([[7, 1], [3, 3], [0, 2]])
    expected = [[14 / 18, 2 / 14], [6 / 16, 6 / 12]]
    np.testing.assert_allclose(dice.dice_matrix(confusion), expected)
    scores = dice.one_to_one(confusion, ["a", "b"])
    assert scores.assignment == [0, 1]
    assert scores.dsc == pytest.approx({"a": 14 / 18, "b": 0.5, "mean": (14 / 18 + 0.5) / 2})
    # Majority: the tie of cluster 1 goes to class 0, which then has 14 voxels; class 1 has none.
    scores = dice.many_to_one(confusion, ["a", "b"])
    assert scores.assignment == [0, 0]
    assert scores.dsc == pytest.approx({"a": 20 / 24, "b": 0.0, "mean": 10 / 24})


def test_matching_takes_the_best_sum_not_the_best_pair_first():
    # Cluster 0 is best with class a (0.8), but then cluster 1 would have nothing with class b.
    confusion = np.array([[8, 4], [6, 0], [0, 0]])
    scores = dice.one_to_one(confusion, ["a", "b"])
    assert scores.assignment == [1, 0]
    assert scores.dsc == pytest.approx({"a": 12 / 20, "b": 8 / 16, "mean": 0.55})


def test_surplus_clusters_and_unmatched_classes():
    over = np.array([[6, 0], [4, 0], [0, 5], [0, 0]])
    scores = dice.one_to_one(over, ["a", "b"])
    assert scores.assignment == [0, None, 1]
    assert scores.dsc["a"] == pytest.approx(12 / 16)
    assert dice.many_to_one(over, ["a", "b"]).dsc == {"a": 1.0, "b": 1.0, "mean": 1.0}

    under = np.array([[5, 0, 0], [0, 5, 2], [0, 0, 0]])
    scores = dice.one_to_one(under, NAMES)
    assert scores.dsc["granules"] == 0.0
    assert scores.dsc["mean"] == pytest.approx((1 + 10 / 12 + 0) / 3)


def test_absent_class_is_left_out_of_the_mean():
    confusion = np.array([[5, 0, 0], [0, 0, 3], [0, 0, 0]])
    for scores in (dice.one_to_one(confusion, NAMES), dice.many_to_one(confusion, NAMES)):
        assert np.isnan(scores.dsc["mitochondria"])
        assert scores.dsc["mean"] == 1.0
        assert scores.assignment == [0, 2]


def test_nothing_scored_is_not_a_crash():
    scores = dice.one_to_one(np.zeros((3, 2), int), ["a", "b"])
    assert np.isnan(scores.dsc["mean"]) and scores.assignment == [None, None]


@given(confusions, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_cluster_numbers_do_not_matter(confusion, random):
    order = list(range(len(confusion) - 1))
    random.shuffle(order)
    shuffled = confusion[[*order, -1]]
    for score in (dice.one_to_one, dice.many_to_one):
        before, after = (score(counts, names_for(counts)) for counts in (confusion, shuffled))
        np.testing.assert_equal(after.dsc, before.dsc)
    matched = [klass for klass in before.assignment if klass is not None]
    assert sorted(matched) == sorted(k for k in after.assignment if k is not None)


@given(confusions)
@settings(max_examples=150, deadline=None)
def test_scores_are_valid_and_one_to_one(confusion):
    names = names_for(confusion)
    for score in (dice.one_to_one, dice.many_to_one):
        scores = score(confusion, names)
        assert list(scores.dsc) == [*names, "mean"]
        values = np.array([scores.dsc[name] for name in names])
        assert (np.isnan(values) == (confusion.sum(axis=0) == 0)).all()
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all()
        assert len(scores.assignment) == len(confusion) - 1
    matched = [k for k in dice.one_to_one(confusion, names).assignment if k is not None]
    assert len(set(matched)) == len(matched)


@given(hnp.arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 3)), st.permutations(range(6)))
@settings(max_examples=50, deadline=None)
def test_perfect_labels_score_one(truth, numbering):
    clusters = 1 + np.array(numbering, np.uint8)[truth]
    found = dice.confusion(ArrayVolume(clusters), ArrayVolume(truth), 6, 4)
    for score in (dice.one_to_one, dice.many_to_one):
        scores = score(found, names_for(found))
        assert scores.dsc["mean"] == 1.0
        for klass in np.unique(truth):
            assert scores.assignment[numbering[klass]] == klass


@given(confusions)
@settings(max_examples=100, deadline=None)
def test_splitting_a_cluster_changes_nothing_many_to_one(confusion):
    first = confusion[:1]
    whole = 2 * confusion
    split = np.concatenate([first, first, whole[1:]])  # the same, with one cluster cut in two
    names = names_for(confusion)
    np.testing.assert_equal(dice.many_to_one(split, names).dsc, dice.many_to_one(whole, names).dsc)


def test_different_shapes_are_refused():
    clusters = ArrayVolume(np.zeros((2, 2, 2), np.uint8), "run/labels.zarr")
    truth = ArrayVolume(np.zeros((2, 2, 3), np.uint8), "truth.tif")
    with pytest.raises(UserError) as error:
        dice.confusion(clusters, truth, 2, 2)
    for part in ("run/labels.zarr", "truth.tif", "(2, 2, 2)", "(2, 2, 3)"):
        assert part in str(error.value)


@pytest.mark.parametrize("dtype, bad", [(np.uint8, 7), (np.int16, -1), (np.uint16, 300)])
def test_unnamed_truth_ids_are_refused(dtype, bad):
    truth = ArrayVolume(np.array([[[0, 1, bad, IGNORE]]], dtype), "truth.tif")
    with pytest.raises(UserError) as error:
        dice.confusion(labels(1, 1, 1, 1), truth, 2, 2)
    for part in ("truth.tif", str(bad), "data.class_names"):
        assert part in str(error.value)


def test_other_labels_that_do_not_fit():
    with pytest.raises(UserError, match=r"labels\.tif: holds label ids 0, 3"):
        dice.confusion(labels(0, 3), labels(0, 0), 2, 2)
    with pytest.raises(UserError, match="whole numbers"):
        dice.confusion(labels(1), ArrayVolume(np.zeros((1, 1, 1))), 2, 2)
    with pytest.raises(UserError, match="data.class_names"):
        dice.one_to_one(np.ones((3, 2)), ["mean", "a"])


def test_blocks_add_up_to_the_confusion_of_the_volume():
    rng = np.random.default_rng(0)
    clusters, truth = rng.integers(0, 4, (2, 9, 10, 11), np.uint8)
    clusters += 1
    clusters[rng.random(clusters.shape) < 0.1] = UNLABELLED
    truth[rng.random(truth.shape) < 0.1] = IGNORE
    whole = dice.block_confusion(clusters, truth, 4, 4)
    parts = sum(dice.block_confusion(clusters[i : i + 2], truth[i : i + 2], 4, 4) for i in range(0, 9, 2))
    np.testing.assert_array_equal(whole, parts)
    assert whole.sum() == np.count_nonzero(truth != IGNORE) and whole[4].sum() > 0
    with pytest.raises(UserError, match="filters: holds label ids"):
        dice.block_confusion(clusters, truth, 3, 4, "filters")
