"""Bits that a disk turned over in a checkpoint: found when it is restored, or without effect."""

import random

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from his4mae_jax.config import get_small
from his4mae_jax.errors import UserError
from his4mae_jax.training.run.checkpoints import Checkpoints
from his4mae_jax.training.step.state import state_like

# Restoring a damaged file leaves threads of orbax's event loops behind, whose last words come too late.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Saved:
    """A checkpoint of the small model with random numbers for its parameters."""

    def __init__(self, workdir):
        config = get_small()
        config.train.steps = 2
        self.checkpoints, self.like = Checkpoints(workdir, config), state_like(config)
        self.sharding, rng = SingleDeviceSharding(jax.devices()[0]), np.random.default_rng(0)
        self.state = jax.tree.map(
            lambda x: jax.device_put((rng.normal(size=x.shape) * 50).astype(x.dtype), self.sharding), self.like
        )
        self.checkpoints.save(2, self.state, {"config": config.to_dict(), "seconds": 1.0, "voxel_size_nm": 8.0})
        self.checkpoints.wait()
        self.folder = workdir / "checkpoints" / "2"

    def outcome(self):
        """What restoring it gives: it is refused, the same, or other numbers."""
        try:
            state, _ = self.checkpoints.restore(2, self.like, self.sharding)
        except UserError:
            return "found"
        same = jax.tree.map(np.array_equal, self.state, state)
        return "without effect" if all(jax.tree.leaves(same)) else "other numbers"


def flip(path, rng):
    """Turns one bit over; returns what puts it right again."""
    data = path.read_bytes()
    changed, at = bytearray(data), rng.randrange(len(data))
    changed[at] ^= 1 << rng.randrange(8)
    path.write_bytes(changed)
    return lambda: path.write_bytes(data)


def campaign(saved, files, count):
    rng, counts = random.Random(0), {"found": 0, "without effect": 0, "other numbers": 0}
    for _ in range(count):
        restore = flip(rng.choices(files, [p.stat().st_size for p in files])[0], rng)
        counts[saved.outcome()] += 1
        restore()
    return counts


@pytest.mark.parametrize("count", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_bits_of_arrays(tmp_path, count):
    saved = Saved(tmp_path)
    data = [p for p in saved.folder.rglob("d/*") if p.stat().st_size > 3e4]  # arrays, and not what says where they lie
    assert sum(p.stat().st_size for p in data) > 0.8 * sum(x.nbytes for x in jax.tree.leaves(saved.state))
    assert saved.outcome() == "without effect"
    counts = campaign(saved, data, count)
    print(counts)
    assert counts["other numbers"] == 0 and counts["found"] > 0.9 * count
