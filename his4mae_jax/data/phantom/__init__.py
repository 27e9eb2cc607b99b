"""Synthetic cells with exact ground truth, for the demo and the tests."""
