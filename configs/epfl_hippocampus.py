"""EPFL hippocampus (isotropic FIB-SEM, mitochondria annotated), a model for a CPU.

    python -m his4mae_jax.main --config=configs/epfl_hippocampus.py --workdir=runs/epfl

Needs training.tif and training_groundtruth.tif of the EPFL CVLab's "Electron Microscopy
Dataset" in data/; other files with --config.data.train, --config.data.test and
--config.data.test_labels, and their voxel size (z, y, x) with
--config.data.file_voxel_size_nm="(5.0,5.0,5.0)". Labels: above 0 is a mitochondrion.
"""

from his4mae_jax.config import get_default
from his4mae_jax.data.known import EPFL_CLASSES


def get_config():
    c = get_default()
    c.data.train = ("data/training.tif",)
    c.data.test = "data/training.tif"
    c.data.test_labels = "data/training_groundtruth.tif"
    c.data.file_voxel_size_nm = (5.0, 5.0, 5.0)  # the original TIFFs do not say
    c.data.voxel_size_nm = 10.0
    c.data.binary_labels = True
    c.data.class_names = EPFL_CLASSES
    c.model.embed_dim, c.model.depth = 96, 6
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 64, 2, 2
    c.codebook.size = 64
    c.train.steps, c.train.batch_size, c.train.samples_per_epoch = 1500, 64, 6400
    c.segment.clusters = 10
    c.evaluate.clusters = (2, 4, 6)
    return c
