"""The library for notebooks and scripts: its functions are the names of `his4mae_jax` itself.

`volumes` opens volumes and takes arrays for them, `training` trains, `encoder` encodes and segments, `segmentation`
holds the results, `evaluate` scores. `config_files` finds configs, for the command as well. See docs/library.md.
"""
