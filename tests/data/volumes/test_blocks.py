"""Boxes and slabs tile a volume once; results come in order from a few items ahead."""

import concurrent.futures
import threading
import time

import numpy as np
import pytest

from his4mae_jax.data.volumes import blocks
from his4mae_jax.data.volumes.blocks import boxes, in_order, read_async, slabs


class Memory:
    """A volume of an array, stored in chunks."""

    def __init__(self, array, chunks):
        self.array, self.chunks = array, chunks
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, box):
        return self.array[box].copy()


def test_boxes_tile_an_array_once_in_c_order():
    count = np.zeros((5, 7, 9), int)
    corners = []
    for box in boxes(count.shape, (2, 3, 4)):
        assert count[box].size <= 24
        corners.append(tuple(s.start for s in box))
        count[box] += 1
    assert (count == 1).all() and corners == sorted(corners)
    assert blocks.voxels(next(boxes((5, 7), (2, 3)))) == 6


@pytest.mark.parametrize(
    ("chunk_depth", "planes", "whole_chunks", "starts"),
    [
        (16, 20, False, [0, 16, 32, 48]),  # one chunk fits, two do not
        (5, 20, False, [0, 20, 40]),
        (16, 12, False, [0, 12, 24, 36, 48]),  # no chunk fits: the limit rules
        (16, 12, True, [0, 16, 32, 48]),
        (1, 0.5, False, list(range(50))),  # not even a slice fits
        (50, 0.5, True, [0]),
        (7, 1000, False, [0]),
    ],
)
def test_slabs_tile_a_volume_in_whole_chunks_where_they_fit(chunk_depth, planes, whole_chunks, starts):
    volume = Memory(np.arange(50 * 10 * 10, dtype="uint16").reshape(50, 10, 10), (chunk_depth, 5, 5))
    found = list(slabs(volume, int(planes * 10 * 10 * 2), whole_chunks=whole_chunks))
    assert [box[0].start for box in found] == starts
    np.testing.assert_array_equal(np.concatenate([volume.read(box) for box in found]), volume.array)


def test_results_come_in_order_and_a_few_ahead():
    taken = []

    def items():
        for i in range(10):
            taken.append(i)
            yield i

    def slow_first(i):
        time.sleep(0.05 * (i == 0))
        return -i

    results = in_order(slow_first, items(), workers=4, ahead=3)
    assert next(results) == 0 and taken == [0, 1, 2, 3]
    assert list(results) == [-i for i in range(1, 10)]


def test_an_error_is_raised_in_its_turn_and_drops_the_rest():
    started, gate = [], threading.Event()

    def fails_at_2(i):
        started.append(i)
        if i == 2:
            raise KeyError("two")
        return i

    results = in_order(fails_at_2, range(100), workers=1, ahead=2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(results)
    assert max(started) <= 4

    def waits(i):
        started.append(i)
        gate.wait(10)

    started.clear()
    results = in_order(waits, range(100), workers=1, ahead=5)
    threading.Timer(0.1, gate.set).start()
    next(results)
    results.close()  # waits for what runs, and for nothing else
    assert len(started) <= 7


def test_a_volume_without_asynchronous_reads_is_read_in_the_threads_given():
    names = []

    class Named(Memory):
        def read(self, box):
            names.append(threading.current_thread().name)
            return super().read(box)

    volume = Named(np.arange(8).reshape(2, 2, 2), (1, 2, 2))
    box = (slice(0, 1), slice(0, 2), slice(1, 2))
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="own") as threads:
        np.testing.assert_array_equal(read_async(volume, box, threads).result(), volume.array[box])
    np.testing.assert_array_equal(read_async(volume, box).result(), volume.array[box])
    assert names[0].startswith("own") and names[1].startswith("read_async")
