"""Cluster centres of token features: fitted on a sample of a volume, read from a codebook or from a file.

All end as `inference.score_maps.LinearScores`, by which `inference` labels volumes.
"""
