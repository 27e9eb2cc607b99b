import ml_collections
import pytest

from his4mae_jax import config as configs
from his4mae_jax.errors import UserError


def test_no_key_hides_a_method_of_config_dict():
    """`config.codebook.update` would be ConfigDict's method, whatever value was set."""
    taken = set(dir(ml_collections.ConfigDict()))
    for key in configs.flat_keys(configs.get_default()):
        assert not set(key.split(".")) & taken, key


def test_the_default_is_valid_and_the_papers_length():
    config = configs.get_default()
    configs.validate(config)
    assert configs.steps_per_epoch(config) == 78
    assert configs.total_steps(config) == 2800 * 20_000 // 256


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("train.stpes", "train.steps"), ("stride", "segment.stride"), ("modle.depth", "model.depth"), ("zzzzqqq", None)],
)
def test_nearest_key(typed, meant):
    assert configs.nearest_key(typed, configs.get_default()) == meant


def test_a_run_without_steps_is_refused():
    config = configs.get_default()
    config.train.epochs = 0
    with pytest.raises(UserError, match="train.steps"):
        configs.validate(config)


def test_settings_saved_before_a_key_was_added_have_its_default():
    saved = configs.get_default().to_dict()
    saved["train"]["steps"], saved["data"]["train"] = 7, ["a.tif"]
    del saved["segment"]["stride"], saved["vae"]
    flat = configs.flat_settings(saved)
    assert flat["train.steps"] == 7 and flat["data.train"] == ["a.tif"]
    assert flat["segment.stride"] == 40 and flat["vae.blocks"] == 2
    assert set(flat) == set(configs.flat_keys(configs.get_default()))
