"""Writing OME-Zarr images and label volumes, versions 0.4 and 0.5. Reading them is in `formats`."""
