import pytest

from his4mae_jax import settings
from his4mae_jax.errors import UserError


@pytest.fixture
def small():
    """16 tokens of 8 features."""
    config = settings.get_small()
    config.model.fov, config.model.patch_size, config.data.crop_min = 16, 4, 16
    config.model.embed_dim, config.segment.overhang = 8, 0
    return config


def refused(config, words):
    with pytest.raises(UserError, match=words):
        settings.validate(config)


@pytest.mark.parametrize("method", ["sdae", "sdae_recon"])
def test_hidden_tokens_fall_into_equal_folds(small, method):
    small.method = method
    for small.sdae.folds in (3, 16):  # 16 tokens, half of them hidden
        refused(small, f"sdae.folds is {small.sdae.folds},.* 8 hidden tokens .*choose one of 1, 2, 4, 8$")
    for small.sdae.folds in (1, 2, 4, 8):
        settings.validate(small)
    small.method, small.sdae.folds = "his4mae", 3
    settings.validate(small)


@pytest.mark.parametrize("ratio", [1e-12, 0.99])
def test_masks_hide_and_show_at_least_one_patch(small, ratio):
    small.objective.mask_ratio = ratio
    refused(small, f"objective.mask_ratio is {ratio}.* of the 16 patches")
    small.method = "vae"  # hides nothing
    settings.validate(small)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sdae.folds", 0), ("supervised.num_heads", 0), ("supervised.depth", 0), ("vae.width", 0), ("vae.blocks", 0),
        ("vae.kl_weight", -1.0),
    ],
)  # fmt: skip
def test_networks_are_not_built_of_nothing(small, key, value):
    small.update_from_flattened_dict({key: value})
    refused(small, f"{key} is {value}, but must be")


def test_segmenters_heads_divide_the_features(small):
    small.supervised.num_heads = 3
    settings.validate(small)
    small.method = "segmenter"
    refused(small, "supervised.num_heads is 3.* model.embed_dim, 8")


def test_the_vaes_width_is_a_multiple_of_4(small):
    small.vae.width = 6
    refused(small, "vae.width is 6, but must be a multiple of 4")


@pytest.mark.parametrize(("key", "value"), [("smooth", 0.5), ("shifts", 2), ("expansion", "nearest")])
def test_cover_stride_has_no_grid(key, value):
    config = settings.get_default()
    config.segment[key] = value
    settings.validate(config)
    config.segment.inference = "cover"
    refused(config, f'segment.{key} .* when segment.inference is "cover"')


def test_the_codebook_gives_centres_where_there_is_one():
    config = settings.get_default()
    config.segment.centres = "codebook"
    settings.validate(config)
    config.codebook.enabled = False
    refused(config, "segment.centres")


def test_a_scheduler_and_dask_go_together():
    config = settings.get_default()
    config.segment.scheduler = "tcp://host:8786"
    refused(config, "segment.scheduler is .* must be empty unless segment.engine is 'dask'")
    config.segment.engine = "dask"
    settings.validate(config)
    config.segment.keep_features = True
    refused(config, "segment.keep_features .* when segment.engine is 'dask'")
    config.segment.scheduler = ""
    refused(config, "segment.scheduler is '', but must be the address")


def test_a_pool_of_bricks_is_replaced_within_the_range_of_steps():
    config = settings.get_default()
    config.data.pool_bricks, config.data.steps_per_brick = 100_000, 1_000_000
    refused(config, "data.steps_per_brick .* data.pool_bricks")
