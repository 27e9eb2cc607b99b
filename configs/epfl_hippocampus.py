"""EPFL hippocampus (isotropic FIB-SEM, mitochondria annotated), half an hour on two CPU cores.

    his4mae fetch --config=epfl_hippocampus
    his4mae all --config=epfl_hippocampus --workdir=runs/epfl

The first downloads training.tif and training_groundtruth.tif of the EPFL CVLab's "Electron
Microscopy Dataset" to data/; files that lie there are used. Other files with
--config.data.train, --config.data.test and --config.data.test_labels, and their voxel size
(z, y, x) with --config.data.file_voxel_size_nm="(5.0,5.0,5.0)". Labels: above 0 is a mitochondrion. They
only score: training and clustering see the image alone.
"""

from his4mae_jax.config import get_small
from his4mae_jax.data.known import epfl


def get_config():
    c = get_small()
    c.data.root = "data"
    c.data.train = ("epfl:training",)
    c.data.test = c.data.test_labels = "epfl:training"
    c.data.file_voxel_size_nm = (5.0, 5.0, 5.0)  # of other files: those named above are known
    c.data.voxel_size_nm = 15.0  # a field of view of 20 pixels then spans a mitochondrion
    c.data.binary_labels = True
    c.data.class_names = epfl.CLASSES
    c.train.steps = 24_000
    c.train.log_every = 1000
    c.segment.clusters = 10
    c.evaluate.clusters = (2, 4, 6)
    return c
