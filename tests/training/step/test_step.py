"""The step's bookkeeping: EMA teacher, codebook groups, epochs, schedules, determinism."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from his4mae_jax.config import steps_per_epoch, total_steps
from his4mae_jax.models import codebook
from his4mae_jax.pretext import his4mae
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import optimizer as optimizers
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step import step as steps
from his4mae_jax.training.step.dispatch import StepPrograms
from his4mae_jax.training.step.noise_batch import noise_batch
from his4mae_jax.training.step.settings import StepSettings


class Run:
    def __init__(self, config):
        self.config, self.mesh = config, meshes.make_mesh()
        self.settings = StepSettings.from_config(config)
        self.programs = StepPrograms(self.settings, self.mesh)
        self.state = jax.jit(lambda: states.create(self.settings))()

    def take(self, batch):
        """One step with a raw batch; its metrics."""
        n, batch = int(self.state.step), meshes.put_batch(self.mesh, batch)
        if n == self.settings.codebook.start_step:
            self.state = self.programs.place_codebook(self.state, batch)
        self.state, metrics = self.programs.advance(self.state, batch, 1, n >= self.settings.codebook.start_step)
        return {k: v[0] for k, v in metrics.items()}

    def go(self, count):
        """Steps with batches by step number; returns host copies of each state and its metrics."""
        history = []
        for _ in range(count):
            metrics = self.take(noise_batch(self.config, int(self.state.step)))
            history.append(jax.tree.map(np.array, (self.state, metrics)))
        return history


def test_teacher_starts_as_the_student_and_follows_by_ema(tiny):
    tiny.teacher.momentum = 0.9
    run = Run(tiny)
    jax.tree.map(np.testing.assert_array_equal, run.state.teacher, run.state.params["encoder"])
    before = jax.tree.map(np.array, run.state.teacher)
    total = total_steps(tiny)
    for n, (state, _) in enumerate(run.go(3)):
        m = 1.0 - (1.0 - 0.9) * (np.cos(np.pi * n / total) + 1) / 2
        want = jax.tree.map(lambda t, s, m=m: m * t + (1 - m) * s, before, state.params["encoder"])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.teacher, want)
        before = state.teacher


def test_a_teacher_by_epochs_moves_at_their_ends_alone(tiny):
    tiny.teacher.moves, tiny.teacher.momentum = "epoch", 0.9
    tiny.train.samples_per_epoch = 2 * tiny.train.batch_size
    history = Run(tiny).go(4)
    before, first_end, after, second_end = (jax.tree.leaves(state.teacher) for state, _ in history)
    student = jax.tree.leaves(history[1][0].params["encoder"])
    m = 1.0 - 0.1 * (np.cos(np.pi * 1 / total_steps(tiny)) + 1) / 2
    for t0, t1, t2, s in zip(before, first_end, after, student, strict=True):
        np.testing.assert_allclose(t1, m * t0 + (1 - m) * s, atol=1e-6)
        np.testing.assert_array_equal(t2, t1)
    assert any((a != b).any() for a, b in zip(after, second_end, strict=True))


def test_codes_wait_for_their_start_then_start_among_teacher_tokens(tiny):
    tiny.codebook.start = 0.2  # 4 of 20 steps
    run = Run(tiny)
    at_init = np.array(run.state.params["codebook"]["codes"])
    history = run.go(6)
    np.testing.assert_array_equal(history[3][0].params["codebook"]["codes"], at_init)
    assert history[3][0].codes["usage_K"].sum() == 0
    placed = history[4][0].params["codebook"]["codes"]
    np.testing.assert_allclose(np.linalg.norm(placed, axis=1), np.sqrt(8), rtol=0.35)
    assert history[4][0].codes["usage_K"].sum() == 4 * 16
    assert history[5][1]["loss_tea"] > 0


def test_the_codebook_moves_although_its_gradient_is_tiny(tiny):
    """alpha * dMSE is about 1e-8: with Adam's usual eps the codes would stand still."""
    tiny.codebook.update_isolated = False
    tiny.objective.alpha = 1e-6
    history = Run(tiny).go(6)
    a, b = (h[0].params["codebook"]["codes"] for h in (history[1], history[5]))
    used = np.abs(b - a).max(axis=1) > 0
    assert used.any()
    moved = np.abs(b - a)[used].max()
    assert moved > 4 * 0.2 * tiny.codebook.lr


def test_epoch_end_moves_isolated_codes_and_empties_the_count(tiny):
    tiny.train.batch_size = 2
    tiny.train.samples_per_epoch = 8
    tiny.codebook.size = 64  # more codes than tokens an epoch can use
    tiny.codebook.lr = 0.0  # so that only equation 6 moves codes
    run = Run(tiny)
    per_epoch = steps_per_epoch(tiny)
    history = run.go(2 * per_epoch)
    last, before = history[2 * per_epoch - 1], history[2 * per_epoch - 2]
    assert last[1]["epoch_end"] and not before[1]["epoch_end"]
    assert last[0].codes["usage_K"].sum() == 0 and before[0].codes["usage_K"].sum() > 0
    assert 0 < last[1]["dead_fraction"] < 1 and 1 <= last[1]["perplexity"] <= 64
    change = np.abs(last[0].params["codebook"]["codes"] - before[0].params["codebook"]["codes"]).max(axis=1)
    used_before = before[0].codes["usage_K"] >= 0.05 * 4 * 2 * 16 / 64
    assert (change[used_before] == 0).all()
    assert (change[before[0].codes["usage_K"] == 0] > 0).any()


def test_ema_codes_follow_their_tokens_and_ignore_the_optimiser(tiny):
    tiny.codebook.learning, tiny.codebook.update_isolated = "ema", False
    history = Run(tiny).go(4)
    states_ = [h[0] for h in history]
    assert np.abs(states_[3].params["codebook"]["codes"] - states_[2].params["codebook"]["codes"]).max() > 0
    np.testing.assert_allclose(
        states_[3].params["codebook"]["codes"],
        np.where(states_[3].codes["count_K"][:, None] > 1e-3,
                 states_[3].codes["sum_KxD"] / np.maximum(states_[3].codes["count_K"], 1e-3)[:, None],
                 states_[2].params["codebook"]["codes"]),
        rtol=1e-5,
    )  # fmt: skip


def test_running_means_go_with_the_codes_that_equation_6_moves(tiny):
    """With the old means the step after would take each moved code back."""
    tiny.codebook.learning, tiny.codebook.size = "ema", 64
    tiny.train.batch_size, tiny.train.samples_per_epoch = 2, 8
    end = steps_per_epoch(tiny)  # the codes are placed at step 1: the second epoch is whole
    history = [state for state, _ in Run(tiny).go(2 * end + 1)]
    before, moved, after = (history[i].params["codebook"]["codes"] for i in (2 * end - 2, 2 * end - 1, 2 * end))
    isolated = history[2 * end - 2].codes["usage_K"] == 0
    far = isolated & (np.abs(moved - before).max(axis=1) > 0.1)
    assert far.sum() > 10
    bookkeeping = history[2 * end - 1].codes
    np.testing.assert_array_equal(bookkeeping["count_K"][far], 1.0)
    np.testing.assert_array_equal(bookkeeping["sum_KxD"][far], moved[far])
    unchosen = far & (history[2 * end].codes["usage_K"] == 0)
    assert unchosen.any()
    np.testing.assert_allclose(after[unchosen], moved[unchosen], rtol=1e-5)


@pytest.mark.parametrize(("optimizer", "ratio"), [("adam", 1.0), ("sgd", 10.0)])
def test_alpha_sets_how_far_codes_move_under_sgd_not_under_adam(tiny, optimizer, ratio):
    tiny.codebook.update_isolated, tiny.objective.beta = False, 0.0
    tiny.codebook.optimizer = optimizer
    tiny.codebook.lr = 1.0 if optimizer == "sgd" else 1e-5
    distance = []
    for alpha in (1e-3, 1e-2):
        tiny.objective.alpha = alpha
        history = [state.params["codebook"]["codes"] for state, _ in Run(tiny).go(3)]
        distance.append(np.abs(history[2] - history[1]).max())
    assert distance[1] / distance[0] == pytest.approx(ratio, rel=0.05)


def test_weight_decay_spares_biases_norms_tokens_and_codebook(tiny):
    tiny.model.cls_token = True
    models = his4mae.build(tiny)
    params = his4mae.init_params(jax.random.key(0), models)
    groups = jax.tree_util.tree_map_with_path(optimizers.group_of, params)
    flat = {jax.tree_util.keystr(path): g for path, g in jax.tree_util.tree_leaves_with_path(groups)}
    for name, group in flat.items():
        want = "codebook" if "codebook" in name else "decay" if "kernel" in name else "no_decay"
        assert group == want, name
    assert any("mask_token" in name for name in flat) and any("cls_token" in name for name in flat)
    # And the optimiser does it: with no gradient, only kernels shrink.
    run = optimizers.make_optimizer(StepSettings.from_config(tiny).optimizer)
    params = jax.tree.map(lambda x: x + 1.0, params)
    state, zero = run.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):  # the first step of the warm-up has rate 0
        updates, state = run.update(zero, state, params)
    moved = jax.tree.map(lambda u: bool(jnp.abs(u).max() > 0), updates)
    for path, leaf in jax.tree_util.tree_leaves_with_path(moved):
        name = jax.tree_util.keystr(path)
        assert leaf == (flat[name] == "decay"), name


def test_learning_rate_warms_up_and_ends_at_the_minimum():
    from his4mae_jax.config import get_default

    config = get_default()
    config.train.steps = 1000
    rate = optimizers.schedule(config.train.lr, StepSettings.from_config(config).optimizer)
    assert float(rate(0)) == 0
    np.testing.assert_allclose(float(rate(25)), 2.5e-4, rtol=1e-5)
    np.testing.assert_allclose(float(rate(50)), 5e-4, rtol=1e-5)
    half = 50 + 475
    np.testing.assert_allclose(float(rate(half)), (5e-4 + 8e-7) / 2, rtol=1e-5)
    np.testing.assert_allclose(float(rate(1000)), 8e-7, rtol=1e-4)


def test_the_run_is_a_function_of_the_seed(tiny):
    first, again = Run(tiny).go(5)[-1], Run(tiny).go(5)[-1]
    jax.tree.map(np.testing.assert_array_equal, first, again)
    tiny.seed = 1
    other = Run(tiny).go(5)[-1]
    assert np.abs(other[0].params["codebook"]["codes"] - first[0].params["codebook"]["codes"]).max() > 0


def test_training_learns_a_simple_image(tiny):
    tiny.train.lr, tiny.train.steps = 5e-3, 200
    run = Run(tiny)
    ramp = np.tile(np.linspace(0, 255, 20, dtype=np.uint8), (4, 20, 1))
    first = None
    for n in range(200):
        metrics = run.take({**noise_batch(tiny, n), "crop": ramp})
        first = first or float(metrics["loss_recon"])
    assert float(metrics["loss_recon"]) < 0.05 * first


def test_perplexity_is_that_of_the_usage_counted(tiny):
    history = Run(tiny).go(3)
    state, metrics = history[2]
    perplexity, dead = codebook.usage_statistics(jnp.asarray(state.codes["usage_K"]), tiny.codebook.isolated_below)
    np.testing.assert_allclose(metrics["perplexity"], perplexity, rtol=1e-5)
    np.testing.assert_allclose(metrics["dead_fraction"], dead)


@pytest.mark.parametrize("seed", [0, 1])
def test_each_purpose_and_step_has_its_own_key(seed):
    keys = {
        tuple(np.asarray(jax.random.key_data(steps.step_key(seed, n, p))))
        for n in range(4)
        for p in (steps.MASKS, steps.ISOLATED, steps.INIT_CODES)
    }
    assert len(keys) == 12
