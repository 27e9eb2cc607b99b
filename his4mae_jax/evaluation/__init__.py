"""Scores against ground truth: Dice after Hungarian matching, classical baselines, tables of one run."""
