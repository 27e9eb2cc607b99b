"""Shared settings: quick compilation, a cache of it, and small models."""

import os
import pathlib

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CACHE = os.environ.get("HIS4MAE_TEST_CACHE", str(ROOT / "runs" / "jax_test_cache"))
# Small programs that run once or twice: compiling is most of the suite's time, and twice as much with LLVM's passes.
SETTINGS = {
    "jax_compilation_cache_dir": CACHE,
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_disable_most_optimizations": True,
}
for name, value in SETTINGS.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # for the processes that tests start


@pytest.fixture
def tiny():
    """A configuration whose model compiles in a second."""
    from his4mae_jax.config import get_default

    c = get_default()
    c.model.fov, c.model.patch_size = 20, 5
    c.model.embed_dim, c.model.depth = 8, 1
    c.model.decoder_dim, c.model.decoder_depth, c.model.decoder_num_heads = 8, 1, 2
    c.codebook.size = 6
    c.data.crop_min = 10
    c.train.batch_size, c.train.samples_per_epoch, c.train.steps, c.train.log_every = 4, 16, 20, 5
    return c
