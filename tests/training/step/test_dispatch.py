"""Programs for one case alone do what the one that serves all does, without asking the device on the way."""

import jax
import numpy as np

from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.dispatch import StepPrograms, dispatch_spans
from his4mae_jax.training.step.noise_batch import noise_batch
from his4mae_jax.training.step.settings import StepSettings


def test_programs_of_single_cases_take_the_same_steps(tiny):
    per_dispatch, results = 3, []
    tiny.codebook.start = 0.05  # 1 of 20 steps: a short dispatch before it, a whole one after
    settings, mesh = StepSettings.from_config(tiny), meshes.make_mesh()
    stop = settings.codebook.start_step
    programs = [
        StepPrograms(settings, mesh, per_dispatch=per_dispatch, specialise=specialise) for specialise in (False, True)
    ]
    for one in programs:
        state, losses = jax.jit(lambda: states.create(settings))(), []
        for first, count in dispatch_spans(0, 4, per_dispatch, every=4, stop=stop):
            batches = [noise_batch(tiny, first + min(i, count - 1)) for i in range(per_dispatch)]
            data = meshes.put_stacked(mesh, jax.tree.map(lambda *x: np.stack(x), *batches))
            state = programs[0].place_codebook(state, data) if first == stop else state
            assert one.compiles(count, first >= stop) == (one is programs[1] or first == 0)
            state, metrics = one.advance(state, data, count, first >= stop)
            assert not one.compiles(count, first >= stop)
            losses += [metrics["loss"][:count], metrics["loss_tea"][:count]]
        results.append(jax.device_get((losses, jax.tree.map(lambda x: x, state))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)
    assert results[0][0][1][0] == 0 and results[0][0][-1][-1] > 0  # distillation began on the way


def test_a_step_that_knows_its_case_has_no_branch(tiny):
    settings = StepSettings.from_config(tiny)
    programs = StepPrograms(settings, meshes.make_mesh())
    state = jax.eval_shape(lambda: states.create(settings))

    def text(ready):
        return programs.program(ready).lower(state, noise_batch(tiny), 1).compile().as_text()

    assert " conditional(" in text(None)
    assert " conditional(" not in text(True)


def test_the_dispatches_of_a_run_without_end_are_not_listed():
    spans = dispatch_spans(5, 10**20, 25, every=10, stop=10**19)
    assert [next(spans) for _ in range(3)] == [(5, 5), (10, 10), (20, 10)]
