"""The classifier: folded standardisation, folds apart in space, cuts for Dice, and scores as `segment` applies them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.centres import Centres, Classes
from his4mae_jax.inference.score_maps import StackedScores, head_scores
from his4mae_jax.probe import cuts
from his4mae_jax.probe.classifier import fit_classifier
from his4mae_jax.probe.folds import scorable_folds, spatial_folds
from his4mae_jax.probe.heads import fit_hidden, fit_linear, sample_weights
from his4mae_jax.probe.suggest import least_sure


def mixture(counts, seed=0, dim=6):
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(len(counts)), counts)
    middles = np.random.default_rng(9).normal(size=(len(counts), dim)) * 1.5
    return (middles[classes] + rng.normal(size=(len(classes), dim)) + 100).astype(np.float32), classes


@pytest.mark.parametrize("counts", [(60, 20), (60, 20, 30)])
def test_the_linear_head_is_scikit_learns(counts):
    z, y = mixture(counts)
    scaler = StandardScaler().fit(z)
    model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(z), y, sample_weight=sample_weights(y))
    probabilities = np.exp(logits := fit_linear(z, y, 0.1).logits(z.astype(np.float64)))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, model.predict_proba(scaler.transform(z)), atol=2e-4)
    assert logits.shape == (len(z), len(counts))


def test_a_hidden_layer_learns_what_is_not_linear():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 4)).astype(np.float32)
    y = (z[:, 0] * z[:, 1] > 0).astype(int)
    assert (fit_linear(z, y, 1.0).logits(z).argmax(axis=1) == y).mean() < 0.7
    head = fit_hidden(z + 50, y, 0.3, width=16)
    assert (head.logits(z + 50).argmax(axis=1) == y).mean() > 0.95
    # As it is applied to lattices: the smallest score is the largest logit.
    scores = Classes(("a", "b"), head.weights_KxH, head.offset_K, head.hidden).linear()
    stacked = StackedScores.of({2: scores}, None)
    assert stacked.linear is None
    np.testing.assert_allclose(-head_scores(z + 50, stacked.heads), head.logits(z + 50), rtol=1e-3, atol=1e-3)


def test_folds_keep_neighbours_together():
    rng = np.random.default_rng(0)
    index, y = rng.integers(0, 256, (400, 3)), rng.integers(0, 2, 400)
    folds = spatial_folds(index, y, 64, 5, 0)
    assert set(folds) == set(range(5)) and scorable_folds(folds, y) == [0, 1, 2, 3, 4]
    for block in np.unique(index // 64, axis=0):
        assert len(set(folds[(index // 64 == block).all(axis=1)])) == 1
    one = spatial_folds(np.zeros((4, 3), int), np.array([0, 0, 1, 1]), 64, 5, 0)
    assert scorable_folds(one, np.array([0, 0, 1, 1])) == []  # a single place: nothing can be tested


def cells(seed=0, size=20_000):
    """Margins of a volume, 6 % of which is an organelle, and its truth."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(size) < 0.06).astype(int)
    return np.where(truth == 1, 1.2, -2.0) + rng.normal(size=size), truth


def logits_of(margin):
    return np.stack([-margin / 2, margin / 2], axis=1)


@pytest.mark.parametrize("placed", ["at random", "by class", "where the classifier is unsure"])
def test_a_class_takes_its_part_of_the_volume_however_labels_were_placed(placed):
    margin, truth = cells()
    rng = np.random.default_rng(1)
    if placed == "at random":
        rows = rng.choice(len(truth), 400, replace=False)
    elif placed == "by class":
        rows = np.concatenate([rng.choice(np.flatnonzero(truth == k), 200, replace=False) for k in (0, 1)])
    else:
        unsure = np.argsort(abs(margin))[: len(truth) // 10]
        rows = np.concatenate([rng.choice(len(truth), 100, replace=False), rng.choice(unsure, 300, replace=False)])
    # As a head says it that counts classes by the root of their number of labels.
    share = np.bincount(truth[rows]) / len(rows)
    model = LogisticRegression(C=10).fit(margin[rows, None], truth[rows], sample_weight=sample_weights(truth[rows]))
    logits = logits_of(model.decision_function(margin[:, None]))
    cut = cuts.cut(logits, truth[rows], logits[rows])
    assert (cut.hard > 0.5) == placed.startswith("where") and (cut.by_class > 0.5) == (placed == "by class")
    chosen = (logits + cut.offset_K).argmax(axis=1)
    assert 0.04 < chosen.mean() < 0.09 and 0.04 < cut.fraction_K[1] < 0.09
    best = max(f1_score(truth, margin > m) for m in np.linspace(-2, 2, 41))
    assert f1_score(truth, chosen) > best - 0.03, share


def test_few_labels_at_random_move_the_cut_less():
    margin, truth = cells()
    logits = logits_of(margin)
    few = np.concatenate([np.flatnonzero(truth == 0)[:94], np.flatnonzero(truth == 1)[:6]])
    many = np.concatenate([np.flatnonzero(truth == 0)[:9400], np.flatnonzero(truth == 1)[:600]])
    moved = [abs(cuts.cut(logits, truth[rows], logits[rows]).offset_K).max() for rows in (few, many)]
    assert moved[0] < 0.5 * moved[1]


def test_offsets_give_each_of_several_classes_its_part():
    logits = np.random.default_rng(0).normal(size=(5000, 4)) * 3
    wanted = np.array([0.7, 0.2, 0.09, 0.01])
    taken = np.bincount((logits + cuts.taking(logits, wanted)).argmax(axis=1), minlength=4) / 5000
    np.testing.assert_allclose(taken, wanted, atol=0.005)


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_classifier_reports_its_folds(hidden):
    z, y = mixture((60, 40, 12), dim=16)
    index = np.random.default_rng(1).integers(0, 100, (len(y), 3))
    fitted = fit_classifier(z, y, index, z, hidden=hidden, block=30, folds=3)
    assert (fitted.head.hidden is not None) == bool(hidden)
    assert fitted.dice()[0][0] > 0.8 and fitted.dice_FxK.shape[1] == 3
    assert np.mean(fitted.head.logits(z).argmax(axis=1) == y) > 0.9
    alone = fit_classifier(z, y, np.zeros_like(index), z, hidden=hidden)
    assert alone.dice() == [None] * 3


def test_suggestions_are_unsure_and_apart():
    rng = np.random.default_rng(0)
    index = rng.integers(0, 200, (3000, 3))
    logits = np.stack([index[:, 0] - 100.0, np.zeros(3000)], axis=1)
    rows = least_sure(logits, index, np.array([[100, 100, 100]]), 12)
    assert len(rows) == 12 and (abs(index[rows, 0] - 100) < 15).all()
    apart = np.linalg.norm(index[rows][:, None] - index[rows], axis=-1)[~np.eye(12, dtype=bool)]
    assert apart.min() > 15 and (np.linalg.norm(index[rows] - 100, axis=1) > 3).all()


def test_classes_and_centres_are_kept_in_one_file(tmp_path):
    path, eye = tmp_path / "probe.npz", np.eye(3, dtype=np.float32)
    hidden = np.ones((3, 5), np.float32), np.zeros(5, np.float32)
    classes = Classes(("rest", "mito"), np.ones((2, 5), np.float32), np.zeros(2, np.float32), hidden)
    centre_files.save(path, {3: Centres(eye, eye), 2: classes}, encoder_digest="one")
    loaded, _ = centre_files.load(path)
    assert list(loaded) == [3, 2] and loaded[2].names == centre_files.class_names(path) == ("rest", "mito")
    np.testing.assert_array_equal(loaded[2].hidden[0], hidden[0])
    assert list(centre_files.load_for(path, [2, 3], "one")) == [2, 3]
    centre_files.save(path, {3: Centres(eye, eye)})
    assert centre_files.class_names(path) == () and centre_files.class_names("") == ()
