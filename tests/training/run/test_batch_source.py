"""What is decided before training: the plan, the sampler, the dispatches."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from his4mae_jax.config import get_default
from his4mae_jax.data.sampling import resident
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.errors import UserError
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.run import batch_source, checkpoints, loop
from his4mae_jax.training.step.dispatch import dispatch_spans


class Memory:
    name, voxel_size_nm = "volume", (10.0,) * 3

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, slices):
        return self.array[slices].copy()


def volume(side=40):
    return Memory(np.random.default_rng(0).integers(0, 255, (side,) * 3, dtype=np.uint8))


def plan_of(config, *volumes):
    boxes = [tuple(slice(0, n) for n in v.shape) for v in volumes]
    return batch_source.make_plan(config, volumes, boxes, config.data.axes)


def test_the_pool_is_for_volumes_larger_than_memory_unless_set(tiny):
    assert plan_of(tiny, volume()).pool is None
    tiny.data.in_memory_gb = 1e-6
    assert plan_of(tiny, volume()).pool.slots == 64
    tiny.data.pool_bricks = 0
    assert plan_of(tiny, volume()).pool is None
    tiny.data.in_memory_gb, tiny.data.pool_bricks, tiny.data.brick, tiny.data.steps_per_brick = 8.0, 5, 60, 7
    pool = plan_of(tiny, volume(500)).pool
    assert (pool.slots, pool.every, pool.seed) == (5, 7, tiny.seed)
    assert pool.step_Vx3.tolist() == [[37] * 3]  # 481 positions in 13 cells of at most 60 - 20; chunks are longer


def test_automatic_sampling_on_the_device_needs_an_accelerator_with_room(tiny, monkeypatch):
    volumes = [volume()]
    assert not batch_source.on_device(tiny, volumes)  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(resident, "free_bytes", lambda: 3 * 40**3)
    assert batch_source.on_device(tiny, volumes)
    assert batch_source.steps_per_dispatch(tiny, True) == 25 and batch_source.steps_per_dispatch(tiny, False) == 1
    tiny.data.device_fraction = 0.3
    assert not batch_source.on_device(tiny, volumes)
    tiny.data.sampler = "device"
    assert batch_source.on_device(tiny, volumes)
    monkeypatch.setattr(resident, "free_bytes", lambda: 40**3 - 1)
    with pytest.raises(UserError, match="data.sampler is 'device'.*0.0 GB"):
        batch_source.on_device(tiny, volumes)
    monkeypatch.setattr(resident, "free_bytes", lambda: None)
    assert batch_source.on_device(tiny, volumes)
    tiny.data.sampler = "auto"
    assert not batch_source.on_device(tiny, volumes)


def test_a_call_on_a_cpu_takes_as_many_steps_as_make_seconds(tiny):
    assert batch_source.steps_per_dispatch(tiny, False) == batch_source.steps_per_dispatch(tiny, True) == 25
    paper = get_default()
    assert batch_source.steps_per_dispatch(paper, False) == 1
    paper.train.batch_size = 32
    assert batch_source.steps_per_dispatch(paper, False) == 3
    paper.train.steps_per_call = 7
    assert batch_source.steps_per_dispatch(paper, False) == 7


def test_an_accelerator_asked_for_must_be_there(tiny):
    loop.check_backend(tiny)
    tiny.train.require_accelerator = True
    with pytest.raises(UserError, match="train.require_accelerator"):
        loop.check_backend(tiny)


def test_batches_of_one_call_are_stacked_and_filled_up(tiny):
    tiny.train.steps_per_call = 3
    volumes = [volume()]
    source = batch_source.BatchSource(tiny, plan_of(tiny, *volumes), volumes, [Contrast(0, 255)], meshes.make_mesh())
    spans = [(0, 3), (3, 1), (4, 2)]
    dispatches = list(source.dispatches(spans))
    assert [(first, count) for first, count, _ in dispatches] == spans
    batches = [data for *_, data in dispatches]
    steps = [0, 1, 2, 3, 3, 3, 4, 5, 5]
    assert batches[0]["crop"].shape == (3, 4, 20, 20)
    got = np.concatenate([call["crop"] for call in batches])
    for row, step in zip(got, steps, strict=True):
        np.testing.assert_array_equal(row, source._host.batch(step)["crop"])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 60), st.integers(1, 100), st.integers(1, 30), st.integers(1, 40), st.integers(1, 80)
)  # fmt: skip
def test_calls_cover_every_step_and_end_where_they_must(start, more, per_dispatch, every, stop):
    total = start + more
    spans = list(dispatch_spans(start, total, per_dispatch, every=every, stop=stop))
    assert [step for first, count in spans for step in range(first, first + count)] == list(range(start, total))
    assert all(1 <= count <= per_dispatch for _, count in spans)
    firsts = {first for first, _ in spans}
    must = {*range(0, total, every), stop} & set(range(start, total))
    assert must <= firsts
    assert len(spans) <= -(-more // per_dispatch) + len(must)


def test_volumes_in_the_accelerators_memory_need_no_pool_even_after_a_resume_elsewhere(tiny, tmp_path):
    tiny.data.in_memory_gb, boxes = 1e-6, [tuple(slice(0, n) for n in volume().shape)]
    tiny.data.sampler = "host"
    assert batch_source.in_accelerator_gb(tiny, [volume()]) == 0
    tiny.data.sampler = "device"
    began = max(tiny.data.in_memory_gb, batch_source.in_accelerator_gb(tiny, [volume()]))
    checkpoints.write_config(tmp_path, tiny, in_memory_gb=began)
    tiny.data.sampler = "host"
    for gb in (began, checkpoints.initial_in_memory_gb(tmp_path, tiny)):
        assert batch_source.make_plan(tiny, [volume()], boxes, tiny.data.axes, in_memory_gb=gb).pool is None
    assert batch_source.make_plan(tiny, [volume()], boxes, tiny.data.axes).pool is not None


def test_a_training_that_goes_on_with_other_memory_keeps_its_pool(tiny, tmp_path):
    """`data.in_memory_gb` may change in a workdir, and the samples must not."""
    boxes = [tuple(slice(0, n) for n in volume().shape)]
    for began, later in ((8.0, 1e-6), (1e-6, 8.0)):
        workdir = tmp_path / str(began)
        for tiny.data.in_memory_gb in (began, later, later):
            gb = checkpoints.initial_in_memory_gb(workdir, tiny)
            plan = batch_source.make_plan(tiny, [volume()], boxes, tiny.data.axes, in_memory_gb=gb)
            checkpoints.write_config(workdir, tiny, in_memory_gb=gb)
            assert (plan.pool is None) == (began == 8.0)
