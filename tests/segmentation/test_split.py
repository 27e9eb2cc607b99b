"""The devices of a host share a tile, and give what one alone gives: labels to the last bit."""

import os
import subprocess
import sys

SCRIPT = """
import jax, numpy as np
from jax.sharding import AxisType

from his4mae_jax.config import get_default
from his4mae_jax.data.contrast import Contrast
from his4mae_jax.pretext import his4mae
from his4mae_jax.segmentation import centres as files
from his4mae_jax.segmentation import driver

assert jax.device_count() == 3

class Memory:
    name, dtype, voxel_size_nm = "memory", np.dtype("uint8"), (10.0,) * 3
    array = np.random.default_rng(0).integers(0, 256, (33, 40, 45), np.uint8)
    shape = array.shape

    def read(self, slices):
        return self.array[slices]

c = get_default()
c.model.fov, c.model.patch_size, c.model.embed_dim, c.model.depth = 20, 5, 8, 1
models = his4mae.build(c)
params = jax.tree.map(lambda x: 3 * x, his4mae.init_params(jax.random.key(0), models)["encoder"])
alone = lambda: jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
together = driver.make_local_mesh

def found(mesh, centres=None, **changes):
    driver.make_local_mesh = mesh
    settings = {**dict(axes="z", stride=10, edge_weight=0.25, smooth=0.7, batch=6, tile=30), **changes}
    segmenter = driver.Segmenter(models, params, Contrast(0, 255), **settings)
    features = segmenter.sample(Memory(), 0.01, 2, 0)[0]
    white = np.eye(8, dtype=np.float32)
    centres = centres or {4: files.Centres(features[:4], white), 6: files.Centres(features[4:10], white)}
    out = []
    for tile, labels, shares in segmenter.label(Memory(), centres, probabilities_of=4):
        out += [labels[4], labels[6], shares]
    return features, centres, out

for changes in ({}, {"axes": "zyx"}, {"axes": "zy", "shifts": 2, "symmetries": 2, "batch": 7},
                {"inference": "cover", "smooth": 0.0}, {"inference": "cover", "smooth": 0.0, "batch": 8}):
    features, centres, one = found(alone, **changes)
    again, _, three = found(together, centres, **changes)
    # For cover-stride each device encodes a part of a batch, and sums are taken in another order.
    np.testing.assert_allclose(features, again, rtol=0, atol=1e-5 if "inference" in changes else 0)
    assert len(one) == len(three) > 3 and len(np.unique(one[0])) > 1
    for a, b in zip(one, three):
        np.testing.assert_array_equal(a, b)
print("equal")
"""


def test_three_devices_give_what_one_gives():
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "3"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "equal\n", done.stderr
