"""Opening a volume in any format, on disk or in a bucket, as a lazy array with its voxel size.

A new format is a module here and one branch in `opening`.
"""
