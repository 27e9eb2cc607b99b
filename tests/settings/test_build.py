import ml_collections
import pytest

from his4mae_jax import settings
from his4mae_jax.config import steps_per_epoch, total_steps
from his4mae_jax.errors import UserError


def refusal(config):
    with pytest.raises(UserError) as caught:
        settings.validate(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_key_hides_a_method_of_config_dict():
    """`config.codebook.update` would be ConfigDict's method, whatever value was set."""
    taken = set(dir(ml_collections.ConfigDict()))
    for key in settings.TABLE:
        assert not set(key.split(".")) & taken, key


def test_the_default_is_valid_and_the_papers_length():
    config = settings.get_default()
    settings.validate(config)
    assert steps_per_epoch(config) == 78
    assert total_steps(config) == 2800 * 20_000 // 256


def test_the_small_preset_is_valid_and_ends_in_minutes():
    config = settings.get_small()
    settings.validate(config)
    assert config.is_locked
    assert total_steps(config) * config.train.batch_size / 4900 < 5 * 60  # images a second on two cores


def test_the_configuration_is_locked_and_keeps_types():
    config = settings.get_default()
    with pytest.raises(AttributeError):
        config.train.stpes = 3
    with pytest.raises(TypeError):
        config.train.steps = 1.5
    config.train.lr = 1
    assert type(config.train.lr) is float


def test_a_run_without_steps_is_refused():
    config = settings.get_default()
    config.train.epochs = 0
    assert "train.steps" in refusal(config)


def test_a_run_without_end_is_refused():
    config = settings.get_default()
    config.train.steps = 10**20
    assert "train.steps is 100000000000000000000, but must be a whole number of steps from 1 to" in refusal(config)
    config.train.steps, config.train.epochs, config.train.batch_size = 0, 10**6, 1
    assert "train.epochs is 1000000, but must be smaller" in refusal(config)


def test_lists_do_for_tuples_as_json_keeps_them():
    config = settings.get_default()
    with config.ignore_type():
        config.train.betas, config.data.train, config.compare.rows = [0.9, 0.99], ["a.tif"], [["a", ["seed=3"]]]
    settings.validate(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: setattr(c, "train", None), "config section train is None"),
        (lambda c: delattr(c.train, "lr"), "config key train.lr is missing"),
        (lambda c: setattr(c.train, "stpes", 3), "there is no config key train.stpes; did you mean train.steps"),
    ],
    ids=["no section", "no key", "one more key"],
)
def test_a_configuration_of_another_shape_is_refused(change, words):
    config = settings.get_default()
    config.unlock()
    change(config)
    assert words in refusal(config)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("train.lr", -1.0, "is -1.0, but must be a number from 0 to 10"),
        ("train.lr", float("nan"), "is nan, but"),
        ("train.warmup", None, "is None, but must be a number at least 0 and below 1"),
        ("train.betas", (), "two numbers"),
        ("train.steps", True, "is True, but must be a whole number"),
        ("segment.symmetries", 2.0, "is 2.0: choose one of 1, 2, 4, 8"),
        ("segment.symmetries", True, "is True: choose one of 1, 2, 4, 8"),
        ("model.patch_size", 0, "from 1 to"),
        ("model.cls_token", 1, "True or False"),
        ("data.axes", "zz", "each at most once"),
        ("data.contrast_window", (5, 3), "two rising grey levels"),
        ("data.contrast_window", (1e9, 1e9 + 1), "float32"),
        ("data.class_names", ("mean", "nucleus"), "mean score"),
        ("data.class_names", ("nucleus", "nucleus"), "different names"),
        ("segment.block", (4096, 4096, 4096), "voxels"),
        ("compare.rows", ((1, 2),), "pairs of a name"),
    ],
)  # fmt: skip
def test_errors_name_key_value_and_what_is_allowed(key, value, rule):
    config = settings.get_default()
    *sections, name = key.split(".")
    section = config
    for part in sections:
        section = section[part]
    with config.ignore_type():
        section[name] = value
    message = refusal(config)
    assert key in message and rule in message


def test_a_number_too_long_to_be_printed_is_refused():
    config = settings.get_default()
    config.seed = 10**5000
    assert "seed is an enormous number" in refusal(config)


def test_settings_saved_before_a_key_was_added_have_its_default():
    saved = settings.get_default().to_dict()
    saved["train"]["steps"], saved["data"]["train"] = 7, ["a.tif"]
    del saved["segment"]["stride"], saved["vae"]
    flat = settings.flat_settings(saved)
    assert flat["train.steps"] == 7 and flat["data.train"] == ["a.tif"]
    assert flat["segment.stride"] == 40 and flat["vae.blocks"] == 2
    assert set(flat) == set(settings.TABLE)
