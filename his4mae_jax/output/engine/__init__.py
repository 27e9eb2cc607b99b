"""Who labels the tiles of a volume, and how it is known which are done: this process, or workers of a Dask cluster."""
