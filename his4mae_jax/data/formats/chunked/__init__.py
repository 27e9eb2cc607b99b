"""Volumes in chunks, in a folder or bucket: zarr and OME-Zarr, N5, neuroglancer precomputed."""
