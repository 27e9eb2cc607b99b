"""What views of sparse volumes say of what is stored: nothing else than what reading says."""

import numpy as np
import pytest
from memory_volume import MemoryVolume

from his4mae_jax.data.stores.chunks.stored import Stored, boxes_of_any
from his4mae_jax.data.volumes.blocks import boxes, boxes_beside_all, known_value, read_known, stored_of
from his4mae_jax.data.volumes.grid import Line, VoxelMap, between_voxels
from his4mae_jax.data.volumes.labels import IGNORE, Foreground, Inside
from his4mae_jax.data.volumes.resample import ResampledVolume

SHAPE, CHUNK = (24, 32, 40), 4


def sparse(fill, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    filled = rng.random([n // CHUNK for n in SHAPE]) < 0.02
    voxels = filled.repeat(CHUNK, 0).repeat(CHUNK, 1).repeat(CHUNK, 2)
    values = rng.choice(np.array([0, 1, 2, 3, IGNORE], dtype), SHAPE)
    edges = tuple(np.arange(0, n + 1, CHUNK) for n in SHAPE)
    return MemoryVolume(np.where(voxels, values, np.array(fill, dtype)), Stored(edges, filled, fill))


def random_boxes(shape, number=400):
    rng = np.random.default_rng(1)
    for _ in range(number):
        low = [int(rng.integers(n)) for n in shape]
        yield tuple(slice(a, int(rng.integers(a, min(n, a + 12))) + 1) for a, n in zip(low, shape, strict=True))


VIEWS = {
    "inside": lambda volume: Inside(volume, 2),
    "foreground": Foreground,
    "finer": lambda volume: ResampledVolume(volume, (10.0, 7.0, 4.0), True),
    "coarser": lambda volume: ResampledVolume(volume, (13.0, 20.0, 31.0), True),
    "on a grid": lambda volume: ResampledVolume(volume, (20.0, 20.0, 20.0), True, (13, 16, 21)),
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("fill", [0, 3, IGNORE])
def test_boxes_known_to_be_constant_are(name, fill):
    view, known = VIEWS[name](sparse(fill)), 0
    for box in random_boxes(view.shape):
        value = known_value(view, box)
        if value is not None:
            known += 1
            array = view.read(box)
            assert (array == value).all()
            np.testing.assert_array_equal(read_known(view, box), array)
            assert read_known(view, box).dtype == array.dtype
    assert known > 10


def test_the_largest_number_is_background():
    volume = Foreground(sparse(2**64 - 1, dtype=np.uint64))
    assert stored_of(volume).value == 0


@pytest.mark.parametrize("line", [Line(), Line(-0.25, 0.5), Line(1.0, 2.0), Line(0.3, 1.7), Line(9.0, 1.0)])
def test_between_voxels_of_one_value_all_have_it(line):
    volume = sparse(0)
    shape = tuple(int((n - 1 - line.offset) / line.step) + 1 for n in SHAPE)
    found = VoxelMap(shape, (line,) * 3).stored(volume.stored)
    assert found.shape == shape
    known = 0
    for box in random_boxes(shape):
        if found.constant(box):
            known += 1
            needed = [between_voxels(line.at(s.start, s.stop), n)[2] for s, n in zip(box, SHAPE, strict=True)]
            assert volume.stored.constant(tuple(slice(*n) for n in needed))
    assert known > 10


def test_boxes_in_which_one_of_two_is_stored():
    one, other, block = sparse(0).stored, sparse(0, seed=5).stored, (8, 5, 7)
    expected = [box for box in boxes(SHAPE, block) if not (one.constant(box) and other.constant(box))]
    assert list(boxes_of_any([one, other], block)) == list(boxes_beside_all(SHAPE, block, (one, other))) == expected
    assert list(boxes_beside_all(SHAPE, block, (one, None))) == list(boxes(SHAPE, block))
    wider = one.widened((3, 0, 1))
    for box in random_boxes(SHAPE):
        near = tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(box, (3, 0, 1), strict=True))
        if wider.constant(box):
            assert one.constant(near)
