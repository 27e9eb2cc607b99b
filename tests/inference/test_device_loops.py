"""The devices of a host share a tile, and give what one alone gives, but for the last bits of a sum."""

import os
import subprocess
import sys

import numpy as np

SCRIPT = """
import sys

import jax, numpy as np

from his4mae_jax.config import get_default
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.pretext import his4mae
from his4mae_jax.clustering.sampling import sample
from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.volume_encoder import VolumeEncoder

class Memory:
    name, dtype, voxel_size_nm = "memory", np.dtype("uint8"), (10.0,) * 3
    array = np.random.default_rng(0).integers(0, 256, (33, 40, 45), np.uint8)
    shape = array.shape

    def read(self, slices):
        return self.array[slices]

c = get_default()
c.model.fov, c.model.patch_size, c.model.embed_dim, c.model.depth = 20, 5, 8, 1
models = his4mae.build(c)
params = jax.jit(lambda: his4mae.init_params(jax.random.key(0), models)["encoder"])()
params = jax.tree.map(lambda x: 3 * x, params)

def found(batch=6, **changes):
    coverage = {**dict(axes="z", stride=10, edge_weight=0.25, smooth=0.7, tile=30), **changes}
    encoder = VolumeEncoder(models, params, Contrast(0, 255), Coverage.of_models(models, **coverage), batch)
    features = sample(encoder, Memory(), 0.01, 2, 0).features_MxD
    where, spread = np.round(features.mean(0), 1), np.round(features.std(0), 1)  # the same for one and three
    some = where + spread * np.random.default_rng(1).normal(size=(10, 8)).astype(np.float32)
    scores = {n: LinearScores(-2 * some[-n:], (some[-n:] ** 2).sum(1)) for n in (4, 6)}
    tiles = encoder.label(Memory(), scores, probabilities_of=4)
    return [features, *(x for _, labels, posterior in tiles for x in (labels[4], labels[6], posterior))]

ways = ({}, {"axes": "zyx"}, {"axes": "zy", "shifts": 2, "symmetries": 2, "batch": 7},
        {"inference": "cover", "smooth": 0.0}, {"inference": "cover", "smooth": 0.0, "batch": 8})
np.savez(sys.argv[1], **{f"{way} {i}": x for way, changes in enumerate(ways) for i, x in enumerate(found(**changes))})
"""


def results(devices, path):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(path)


def test_three_devices_give_what_one_gives(tmp_path):
    one, three = results(1, tmp_path / "one.npz"), results(3, tmp_path / "three.npz")
    assert list(one) == list(three) and len(one.files) > 20
    assert len(np.unique(one["0 1"])) > 1
    for key in one.files:
        if one[key].dtype == np.uint8:  # labels; of 255, probabilities
            assert np.mean(one[key] != three[key]) < 1e-3, key  # voxels as near to one centre as to another
        else:
            np.testing.assert_allclose(one[key], three[key], rtol=0, atol=1e-4, err_msg=key)
