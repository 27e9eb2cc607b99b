"""Label-free segmentation of organelles in volume electron microscopy (HiS4MAE) in JAX."""

__version__ = "0.1.0"
