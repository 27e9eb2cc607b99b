"""OpenOrganelle's mouse pancreas (FIB-SEM), streamed from its public bucket at 16 nm, the voxel size of BetaSeg.

    his4mae inspect --config=openorganelle --workdir=runs/pancreas-1
    his4mae all --config=openorganelle --workdir=runs/pancreas-1

Another of the four volumes: --config=configs/openorganelle.py:2. A part of one, in voxels of full resolution:
--config.data.test="openorganelle:jrc_mus-pancreas-1[3000:4000, 2000:3000, 3000:4000]", which
`his4mae fetch` copies to data.root. There is no ground truth, so nothing is scored.
"""

from his4mae_jax.config import get_default


def get_config(number="1"):
    c = get_default()
    name = f"openorganelle:jrc_mus-pancreas-{number}"
    c.data.root = "data"
    c.data.train = (name,)
    c.data.test = name
    c.data.voxel_size_nm = 16.0
    c.model.dtype = "bfloat16"
    # What was best where there is ground truth (docs/results.md), in place of the paper's slices across z alone.
    c.segment.axes, c.segment.metric, c.segment.smooth, c.segment.overhang = "zyx", "whitened", 0.7, 40
    c.segment.fit_tiles = 32
    c.segment.clusters, c.segment.compare_clusters = 6, tuple(range(2, 15))
    return c
