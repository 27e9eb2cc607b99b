"""Volumes in one file on a disk, other than TIFF."""
