"""What is decided before training: the plan, the sampler, the calls; and metrics cut into windows."""

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
from his4mae_jax.training.run import checkpoints, feed, loop
from his4mae_jax.training.run.log_window import Windows
from his4mae_jax.training.step.multi_step import call_spans


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
    return feed.make_plan(config, volumes, boxes, config.data.axes)


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
    assert not feed.on_device(tiny, volumes)  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(resident, "free_bytes", lambda: 3 * 40**3)
    assert feed.on_device(tiny, volumes)
    assert feed.steps_per_call(tiny, True) == 25 and feed.steps_per_call(tiny, False) == 1
    tiny.data.device_fraction = 0.3
    assert not feed.on_device(tiny, volumes)
    tiny.data.sampler = "device"
    assert feed.on_device(tiny, volumes)
    monkeypatch.setattr(resident, "free_bytes", lambda: 40**3 - 1)
    with pytest.raises(UserError, match="data.sampler is 'device'.*0.0 GB"):
        feed.on_device(tiny, volumes)
    monkeypatch.setattr(resident, "free_bytes", lambda: None)
    assert feed.on_device(tiny, volumes)
    tiny.data.sampler = "auto"
    assert not feed.on_device(tiny, volumes)


def test_a_call_on_a_cpu_takes_as_many_steps_as_make_seconds(tiny):
    assert feed.steps_per_call(tiny, False) == feed.steps_per_call(tiny, True) == 25
    paper = get_default()
    assert feed.steps_per_call(paper, False) == 1
    paper.train.batch_size = 32
    assert feed.steps_per_call(paper, False) == 3
    paper.train.steps_per_call = 7
    assert feed.steps_per_call(paper, False) == 7


def test_an_accelerator_asked_for_must_be_there(tiny):
    loop.check_backend(tiny)
    tiny.train.require_accelerator = True
    with pytest.raises(UserError, match="train.require_accelerator"):
        loop.check_backend(tiny)


def test_batches_of_one_call_are_stacked_and_filled_up(tiny):
    tiny.train.steps_per_call = 3
    volumes = [volume()]
    source = feed.Feed(tiny, plan_of(tiny, *volumes), volumes, [Contrast(0, 255)], meshes.make_mesh())
    calls = list(source.calls([(0, 3), (3, 1), (4, 2)]))
    steps = [0, 1, 2, 3, 3, 3, 4, 5, 5]
    assert calls[0]["crop"].shape == (3, 4, 20, 20)
    got = np.concatenate([call["crop"] for call in calls])
    for row, step in zip(got, steps, strict=True):
        np.testing.assert_array_equal(row, source._host.batch(step)["crop"])


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 60), st.integers(1, 100), st.integers(1, 30), st.integers(1, 40), st.integers(1, 80)
)  # fmt: skip
def test_calls_cover_every_step_and_end_where_they_must(start, more, per_call, every, stop):
    total = start + more
    spans = list(call_spans(start, total, per_call, every=every, stop=stop))
    assert [step for first, count in spans for step in range(first, first + count)] == list(range(start, total))
    assert all(1 <= count <= per_call for _, count in spans)
    firsts = {first for first, _ in spans}
    must = {*range(0, total, every), stop} & set(range(start, total))
    assert must <= firsts
    assert len(spans) <= -(-more // per_call) + len(must)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_do_not_depend_on_how_steps_are_grouped(start, more, every, data):
    total = start + more
    step = np.arange(start, total)
    metrics = {
        "loss": step * 1.0, "lr": step * 2.0, "perplexity": step * 3.0, "dead_fraction": step / 100,
        "epoch_end": (step + 1) % 7 == 0,
    }  # fmt: skip
    windows, found, done = Windows(start, total, every), [], 0
    while done < more:
        count = data.draw(st.integers(1, more - done))
        part = {k: v[done : done + count] for k, v in metrics.items()}
        found += windows.add(part, float(done), float(done + count))
        done += count
    one_by_one, want = Windows(start, total, every), []
    for i in range(more):
        want += one_by_one.add({k: v[i : i + 1] for k, v in metrics.items()}, float(i), float(i + 1))
    assert [(s, scalars) for s, scalars, _ in found] == [(s, scalars) for s, scalars, _ in want]
    np.testing.assert_allclose([at for *_, at in found], [s - start for s, *_ in want])
    ends = {s for s in range(start + 1, total + 1) if s % every == 0 or s == total}
    assert {s for s, *_ in found} == ends
    first = min(ends)
    assert found[0][1]["loss"] == np.mean(np.arange(start, first)) and found[0][1]["lr"] == 2.0 * (first - 1)
    assert ("perplexity" in found[0][1]) == any((s + 1) % 7 == 0 for s in range(start, first))


def test_a_training_that_goes_on_with_other_memory_keeps_its_pool(tiny, tmp_path):
    """`data.in_memory_gb` may change in a workdir, and the samples must not."""
    boxes = [tuple(slice(0, n) for n in volume().shape)]
    for began, later in ((8.0, 1e-6), (1e-6, 8.0)):
        workdir = tmp_path / str(began)
        for tiny.data.in_memory_gb in (began, later, later):
            gb = checkpoints.began_with(workdir, tiny)
            plan = feed.make_plan(tiny, [volume()], boxes, tiny.data.axes, in_memory_gb=gb)
            checkpoints.write_config(workdir, tiny, in_memory_gb=gb)
            assert (plan.pool is None) == (began == 8.0)
