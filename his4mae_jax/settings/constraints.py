"""What must hold between settings, each of which is allowed by itself."""

import math
from collections.abc import Iterator

import ml_collections

from his4mae_jax.settings.derived import num_tokens, num_visible, total_steps
from his4mae_jax.settings.methods import EQUAL_FOLDS, MASKED, SUPERVISED
from his4mae_jax.settings.training import MOST_STEPS

LARGEST_CHUNK = 2**30  # voxels; compressors count a chunk's bytes in 32 bits
LONGEST_CYCLE = 2**30  # steps in which the pool is replaced once; steps are int32


def broken(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield `(key, rule)` of each setting that does not go with the others; every value is allowed by itself."""
    yield from _model(config)
    yield from _objective(config)
    yield from _run(config)
    yield from _data(config)
    yield from _segment(config)


def _model(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    m = config.model
    if m.fov % m.patch_size:
        yield "model.fov", f"a multiple of model.patch_size, {m.patch_size}"
    if m.embed_dim % (4 * m.num_heads):
        yield "model.embed_dim", f"a multiple of 4 * model.num_heads, {4 * m.num_heads}"
    if m.decoder_dim % (4 * m.decoder_num_heads):
        yield "model.decoder_dim", f"a multiple of 4 * model.decoder_num_heads, {4 * m.decoder_num_heads}"
    if config.vae.width % 4:
        yield "vae.width", "a multiple of 4"
    if config.method == "segmenter" and m.embed_dim % config.supervised.num_heads:
        yield "supervised.num_heads", f"a divisor of model.embed_dim, {m.embed_dim}"


def _objective(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    tokens = num_tokens(config)
    visible = num_visible(tokens, config.objective.mask_ratio)
    if config.method in MASKED and not 0 < visible < tokens:
        yield (
            "objective.mask_ratio",
            f"such that of the {tokens} patches of a field of view (model.fov, model.patch_size) at least one is "
            "visible and one hidden",
        )
    hidden = tokens - visible
    if config.method in EQUAL_FOLDS and hidden % config.sdae.folds:
        divisors = ", ".join(str(n) for n in range(1, hidden + 1) if hidden % n == 0)
        yield (
            "sdae.folds",
            f"a divisor of the {hidden} hidden tokens of a field of view: choose one of {divisors}",
        )


def _run(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    steps, product = total_steps(config), "train.epochs * train.samples_per_epoch / train.batch_size"
    if steps < 1:
        yield "train.steps", f"at least 1 where {product} is below 1: the run would have no step"
    elif steps > MOST_STEPS:
        yield "train.epochs", f"smaller: {product} is {steps:,} steps, and a run may have {MOST_STEPS:,}"


def _data(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    d, m = config.data, config.model
    if not m.patch_size <= d.crop_min <= m.fov:
        yield "data.crop_min", f"between model.patch_size, {m.patch_size}, and model.fov, {m.fov}"
    if d.contrast_window and not d.contrast_window[1] - d.contrast_window[0] > 1e-6 * max(map(abs, d.contrast_window)):
        yield "data.contrast_window", "two grey levels that float32 can tell apart"
    if "mean" in d.class_names:
        yield "data.class_names", 'without "mean", which stands for the mean score of all classes'
    if max(d.pool_bricks, 1) * d.steps_per_brick > LONGEST_CYCLE:
        yield "data.steps_per_brick", f"at most {LONGEST_CYCLE:,} over data.pool_bricks"


def _segment(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    s = config.segment
    if s.encoder_file:  # its own patches and fields of view are looked at when it is opened
        yield from _frozen(config)
    else:
        yield from _fields_of_view(config)
    if s.tile < s.stride:
        yield "segment.tile", f"at least segment.stride, {s.stride}"
    if math.prod(s.block) > LARGEST_CHUNK:
        yield "segment.block", f"a chunk of at most {LARGEST_CHUNK:,} voxels"
    if s.inference == "cover":
        # Cover-stride has a token for every voxel, and no grid to smooth, shift or expand.
        for key, value in (("smooth", 0), ("shifts", 1), ("expansion", "linear")):
            if s[key] != value:
                yield f"segment.{key}", f'{value!r} when segment.inference is "cover"'
        if s.keep_features:  # they would take a hundred times the volume
            yield "segment.keep_features", 'False when segment.inference is "cover"'
    if s.engine == "dask" and not s.scheduler:
        yield "segment.scheduler", "the address, or the scheduler file, of a Dask scheduler: segment.engine is 'dask'"
    if s.engine == "local" and s.scheduler:
        yield "segment.scheduler", "empty unless segment.engine is 'dask'"
    if s.engine == "dask" and s.keep_features:
        yield "segment.keep_features", "False when segment.engine is 'dask': keep them with 'local' first"
    if s.centres == "codebook" and not (config.method == "his4mae" and config.codebook.enabled):
        yield "segment.centres", '"kmeans" unless method is "his4mae" with codebook.enabled'


def _fields_of_view(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    m, s = config.model, config.segment
    if s.stride > m.fov or s.stride % m.patch_size:
        yield "segment.stride", f"a multiple of model.patch_size, {m.patch_size}, and at most model.fov, {m.fov}"
    if s.shifts > m.patch_size:
        yield "segment.shifts", f"at most model.patch_size, {m.patch_size}"
    if s.overhang >= m.fov:
        yield "segment.overhang", f"below model.fov, {m.fov}"


def _frozen(config: ml_collections.ConfigDict) -> Iterator[tuple[str, str]]:
    """What a frozen encoder, which no training of ours made, has none of."""
    if config.method in SUPERVISED:
        yield "segment.encoder_file", f'empty: the labels of method "{config.method}" are classes of its own encoder'
    if config.segment.encoder != "student":
        yield "segment.encoder", "'student', the default, when segment.encoder_file names a frozen encoder"
    if config.segment.centres == "codebook":
        yield "segment.centres", "'kmeans' or 'probe' when segment.encoder_file is given: that encoder has no codebook"
