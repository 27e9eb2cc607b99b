"""OME-Zarr: the metadata of its levels, and writing images and label volumes."""
