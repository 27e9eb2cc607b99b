"""Chunks of arrays that TensorStore does not find or decode by itself."""
