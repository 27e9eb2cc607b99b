"""Cluster centres: a sample of features, k-means on it, and centres that are saved and applied elsewhere."""
