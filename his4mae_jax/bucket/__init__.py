"""Workdirs in a bucket of S3 or Google Cloud: paths, conditional puts, leases, folders that are sent and fetched."""
