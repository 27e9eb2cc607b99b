"""Programs for calls of one kind alone do what the one that serves all does, without asking on the way."""

import jax
import numpy as np

from his4mae_jax.pretext import his4mae
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.step import multi_step as calls
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step import step as steps
from his4mae_jax.training.step.optimizer import make_optimizer


def make_batch(config, number):
    """Crops of noise, whole fields of view."""
    B, F = config.train.batch_size, config.model.fov
    batch = {name: np.zeros(B, np.int32) for name in ("flip_rows", "flip_cols", "transpose")}
    crop = np.random.default_rng(number).integers(0, 256, (B, F, F), dtype=np.uint8)
    return {
        **batch,
        "crop": crop,
        "side": np.full(B, F, np.int32),
        "contrast": np.tile(np.float32([0, 255, 0]), (B, 1)),
    }


def test_special_programs_take_the_same_steps(tiny):
    per_call = 3
    tiny.codebook.start = 0.05  # 1 of 20 steps: a short call before it, a whole one after
    models, optimizer, mesh = his4mae.build(tiny), make_optimizer(tiny), meshes.make_mesh()
    stop, found = steps.distillation_start(tiny), []
    compiled = [
        calls.compile_calls(tiny, models, optimizer, mesh, per_call=per_call, special=special)
        for special in (False, True)
    ]
    place = compiled[0][1]
    for advance, _ in compiled:
        state, told = jax.jit(lambda: states.create(tiny, models, optimizer))(), []
        for first, count in calls.call_spans(0, 4, per_call, every=4, stop=stop):
            batches = [make_batch(tiny, first + min(i, count - 1)) for i in range(per_call)]
            data = meshes.put_stacked(mesh, jax.tree.map(lambda *x: np.stack(x), *batches))
            state = place(state, data) if first == stop else state
            state, metrics = advance(state, data, count, first >= stop)
            told += [metrics["loss"][:count], metrics["loss_tea"][:count]]
        found.append(jax.device_get((told, jax.tree.map(lambda x: x, state))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *found)
    assert found[0][0][1][0] == 0 and found[0][0][-1][-1] > 0  # distillation began on the way


def test_a_step_that_knows_its_case_has_no_branch(tiny):
    models, optimizer, mesh = his4mae.build(tiny), make_optimizer(tiny), meshes.make_mesh()
    state = jax.eval_shape(lambda: states.create(tiny, models, optimizer))

    def program(ready):
        step, _ = steps.compile_steps(tiny, models, optimizer, mesh, ready=ready)
        return step.lower(state, make_batch(tiny, 0)).compile().as_text()

    assert " conditional(" in program(None)
    assert " conditional(" not in program(True)
