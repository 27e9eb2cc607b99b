"""The samplers: in memory, streamed, from bricks and on the device, all give the same batches."""

import functools
import math
import mmap
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorstore as ts

from his4mae_jax.data.sampling import bricks, resident, streaming
from his4mae_jax.data.sampling.fields_of_view import Plan, render
from his4mae_jax.data.sampling.geometry import PLANE_AXES, make_geometry
from his4mae_jax.data.sampling.resident import ResidentSampler
from his4mae_jax.data.sampling.streaming import HostSampler
from his4mae_jax.data.volumes import blocks
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

FOV, CROP_MIN = 20, 10


class Memory:
    """A volume of an array that notes the boxes read."""

    def __init__(self, array, name="volume"):
        self.array, self.name, self.voxel_size_nm = array, name, (10.0,) * 3
        self.shape, self.dtype, self.boxes = array.shape, array.dtype, []

    def read(self, slices):
        assert all(0 <= s.start < s.stop <= n for s, n in zip(slices, self.shape, strict=True))
        self.boxes.append(slices)
        return self.array[slices].copy()


def random_volume(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    array = rng.normal(60, 30, shape) if np.dtype(dtype).kind == "f" else rng.integers(0, 120, shape)
    return Memory(array.astype(dtype))


def make_plan(volumes, *, margin=0, axes="zyx", seed=0, batch_size=8, slots=0, every=2, brick=40, chunk=16):
    """A plan over boxes `margin` voxels inside the volumes, with a pool where there are slots."""
    boxes = [tuple(slice(margin, n - margin) for n in v.shape) for v in volumes]
    geometry, pool = make_geometry(volumes, boxes, axes, FOV), None
    if slots:
        pool = bricks.make_pool(
            geometry, [(chunk,) * 3] * len(volumes), seed=seed, slots=slots, every=every, brick=brick
        )
    return Plan(geometry, seed, batch_size, CROP_MIN, FOV, pool)


def contrasts(volumes):
    return [Contrast(10 * i, 100 + 50 * i, invert=i % 2 == 1) for i in range(len(volumes))]


def host(plan, volumes, in_memory, **more):
    return HostSampler(plan, volumes, contrasts(volumes), workers=2, in_memory_bytes=2**40 * in_memory, **more)


def one_device():
    return jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype and np.array_equal(a[key], b[key]), key


ONE = (((40, 60, 50), "uint8"),)
SEVERAL = (((40, 60, 50), "uint8"), ((9, 70, 44), "uint16"), ((44, 30, 90), "int16"))  # the second is thin
FLOAT = (((64, 26, 40), "float32"), ((30, 30, 30), "uint8"))


@pytest.mark.parametrize(
    ("kinds", "slots"), [(ONE, 0), (SEVERAL, 0), (SEVERAL, 3), (FLOAT, 16)],
    ids=["anywhere", "several dtypes", "3 bricks", "more bricks than rows"],
)  # fmt: skip
def test_all_samplers_give_equal_batches(kinds, slots, monkeypatch):
    monkeypatch.setattr(blocks, "SLAB_BYTES", 64 * 1000)  # several slabs a volume
    volumes = [random_volume(shape, dtype, i) for i, (shape, dtype) in enumerate(kinds)]
    labels = [random_volume(v.shape, "uint8", 9) for v in volumes]
    axes = ["zyx", "z", "yx"][: len(volumes)] if slots else "zyx"
    plan = make_plan(volumes, margin=2, axes=axes, slots=slots)
    known = dict(labels=labels, num_classes=120)
    in_memory, streamed = host(plan, volumes, True, **known), host(plan, volumes, False, **known)
    assert in_memory.in_memory and not streamed.in_memory
    on_device = ResidentSampler(plan, volumes, contrasts(volumes), one_device(), **known)
    draw = jax.jit(lambda batch: render(batch, FOV))

    @jax.jit
    def inside(arrays, step):
        batch = on_device.batch(arrays, step)
        return batch, render(batch, FOV)

    for step in (0, 1, 2, 7, 100):
        batch = in_memory.batch(step)
        assert {"crop", "labels", "contrast"} < batch.keys()
        same(batch, streamed.batch(step))
        cut, got = inside(on_device.arrays, step)
        same(batch, cut)
        want = draw(batch)
        np.testing.assert_allclose(got["image"], want["image"], atol=1e-6)
        np.testing.assert_array_equal(got["labels"], want["labels"])


def test_each_row_is_the_slice_that_the_plan_names():
    volumes = [random_volume((40, 60, 50), "uint8"), random_volume((30, 25, 90), "uint8", 1)]
    plan = make_plan(volumes, slots=4, batch_size=32)
    chosen, batch = jax.device_get(jax.jit(plan.at)(5)), host(plan, volumes, False).batch(5)
    for i in range(32):
        at, side = chosen["start"][i], chosen["side"][i]
        box = [slice(n, n + (side if d in PLANE_AXES[chosen["axis"][i]] else 1)) for d, n in enumerate(at)]
        want = volumes[chosen["volume"][i]].array[tuple(box)].reshape(side, side)
        np.testing.assert_array_equal(batch["crop"][i, :side, :side], want)
        assert not batch["crop"][i, side:].any() and not batch["crop"][i, :, side:].any()


def test_a_streamed_zarr_equals_the_array_and_its_labels(tmp_path):
    image, labels = random_volume((50, 60, 70), "uint16").array, random_volume((50, 60, 70), "uint8", 1).array
    for name, array in (("image", image), ("labels", labels)):
        spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(tmp_path / name)}}
        store = ts.open(
            {**spec, "metadata": {"chunks": [16, 16, 16]}}, create=True, dtype=array.dtype, shape=array.shape
        )
        store.result().write(array).result()
    volumes = [open_volume(tmp_path / "image", 10.0)]
    truth = [open_volume(tmp_path / "labels", 10.0, image=False)]
    for slots in (0, 4):
        plan = make_plan(volumes, slots=slots)
        streamed = host(plan, volumes, False, labels=truth, num_classes=120)
        in_memory = host(plan, [Memory(image)], True, labels=[Memory(labels)], num_classes=120)
        for step in (0, 9):
            same(streamed.batch(step), in_memory.batch(step))


def test_a_run_resumed_at_any_step_has_the_pool_it_would_have_had():
    volume = random_volume((90, 90, 90), "uint8")
    plan = make_plan([volume], slots=6, every=3)
    walked = host(plan, [volume], False)
    batches = [walked.batch(step) for step in range(40)]
    for step in (39, 5, 18, 17):
        same(batches[step], host(plan, [volume], False).batch(step))


def test_a_brick_is_read_once_and_few_are_kept():
    volume = random_volume((150, 150, 150), "uint8")
    plan = make_plan([volume], slots=8, every=2, batch_size=16)
    sampler = host(plan, [volume], False)
    sampler.batch(0)
    assert len(sampler._images._reads) == 8 + 2  # the pool, and a quarter ahead
    for step in range(1, 41):
        sampler.batch(step)
        assert len(sampler._images._reads) == 10
    for _, brick in sampler._images._reads.values():
        brick.result()  # those ahead may still be on their way
    assert len(volume.boxes) == 10 + 40 // 2


def chunks_of_boxes(boxes, chunk):
    return {
        c for b in boxes for c in np.ndindex(*[(s.stop - 1) // chunk - s.start // chunk + 1 for s in b])
        for c in [tuple(i + s.start // chunk for i, s in zip(c, b, strict=True))]
    }  # fmt: skip


def test_with_bricks_a_step_reads_few_chunks():
    """A batch of 64 touches hundreds of chunks anywhere; a brick of 3 chunks a side, every second step, 27."""
    volume = Memory(np.zeros((400, 400, 400), np.uint8))
    counts = []
    for slots in (0, 8):
        sampler = host(make_plan([volume], slots=slots, batch_size=64, brick=48), [volume], False)
        sampler.batch(0)
        for _, brick in getattr(sampler._images, "_reads", {}).values():
            brick.result()  # the reads ahead of step 0 do not count
        volume.boxes.clear()
        for step in range(1, 9):
            sampler.batch(step)
        counts.append(sum(len(chunks_of_boxes([b], 16)) for b in volume.boxes) / 8)
    assert counts[0] > 200 and counts[1] <= 27 / 2


def test_hosts_share_the_bricks_out_and_read_their_rows():
    volume = random_volume((90, 90, 90), "uint8")
    plan = make_plan([volume], slots=8, batch_size=16)
    full = host(plan, [volume], False).batch(6)
    parts = []
    for first in (0, 8):
        volume.boxes.clear()
        sampler = host(plan, [volume], False)
        parts.append(sampler.batch(6, slice(first, first + 8)))
        assert len({slot for slot, _ in sampler._images._reads}) == 4
    jax.tree.map(lambda w, *p: np.testing.assert_array_equal(w, np.concatenate(p)), full, *parts)


@pytest.mark.parametrize("slots", [0, 3])
def test_unreadable_volumes_are_reported(slots):
    class Broken(Memory):
        def read(self, slices):
            raise UserError(f"{self.name}: damaged")

    volume = Broken(np.zeros((60, 60, 60), np.uint8), "cell.zarr")
    with pytest.raises(UserError, match=r"cell\.zarr: damaged"):
        host(make_plan([volume], slots=slots), [volume], False).batch(0)


def test_unknown_label_ids_are_refused_where_they_can_be_sampled():
    volume, labels = random_volume((40, 40, 40), "uint8"), Memory(np.full((40, 40, 40), 7, np.uint16))
    plan, known = make_plan([volume], margin=3), dict(labels=[labels], num_classes=7)
    with pytest.raises(UserError, match="id 7, but data.class_names names 7"):
        host(plan, [volume], False, **known).batch(0)
    with pytest.raises(UserError, match="id 7, but data.class_names names 7"):
        ResidentSampler(plan, [volume], contrasts([volume]), one_device(), **known)
    labels.array[3:-3, 3:-3, 3:-3] = IGNORE  # 7 is left in the padding alone
    sampler = ResidentSampler(plan, [volume], contrasts([volume]), one_device(), **known)
    assert (np.asarray(jax.jit(sampler.batch)(sampler.arrays, 0)["labels"]) == IGNORE).all()


def test_volumes_of_more_than_2_to_31_voxels_are_cut_at_their_far_end():
    side = 1300
    assert side**3 > 2**31
    memory = mmap.mmap(-1, side**3)  # pages that nobody writes take no memory
    array = np.frombuffer(memory, np.uint8).reshape((side,) * 3)
    patch = np.random.default_rng(0).integers(1, 255, (FOV, FOV), dtype=np.uint8)
    array[-1, -FOV:, -FOV:] = patch
    chosen = {
        "volume": np.int32([0, 0]), "axis": np.int32([0, 0]), "side": np.int32([FOV, 10]),
        "start": np.int32([[side - 1, side - FOV, side - FOV], [side - 1, side - 10, side - 10]]),
    }  # fmt: skip
    cut = jax.jit(functools.partial(resident.cut, fov=FOV, dtype=np.uint8, fill=0))
    crops = np.asarray(cut((jax.device_put(array, may_alias=True),), chosen))
    np.testing.assert_array_equal(crops[0], patch)
    np.testing.assert_array_equal(crops[1, :10, :10], patch[-10:, -10:])


def test_each_device_cuts_its_own_rows():
    """Eight devices, in a process of its own: volumes on all of them, rows split, batches as on the host."""
    code = f"""
import importlib.util, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
spec = importlib.util.spec_from_file_location("samplers", {str(pathlib.Path(__file__))!r})
t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
volumes = [t.random_volume((40, 60, 50), "uint8"), t.random_volume((9, 70, 44), "uint16", 1)]
plan = t.make_plan(volumes, slots=4, batch_size=16)
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
sampler = t.ResidentSampler(plan, volumes, t.contrasts(volumes), mesh)
cut = jax.jit(sampler.batch).lower(sampler.arrays, 3).compile()
batch = cut(sampler.arrays, 3)
assert all(a.is_fully_replicated for a in sampler.arrays["volumes"])
assert [s.data.shape for s in batch["crop"].addressable_shards] == [(2, t.FOV, t.FOV)] * 8
assert not any(word in cut.as_text() for word in ("all-gather", "all-reduce", "all-to-all"))
t.same(t.host(plan, volumes, True).batch(3), batch)
print("same")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "same", done.stderr


def test_total_bytes():
    volume = random_volume((50, 10, 10), "uint16")
    assert streaming.total_bytes([volume]) == math.prod(volume.shape) * 2
