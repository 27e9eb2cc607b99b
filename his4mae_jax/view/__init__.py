"""A run in neuroglancer and in napari: which layers there are, and the two viewers that show them."""
