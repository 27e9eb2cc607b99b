import ml_collections
import pytest

from his4mae_jax import settings
from his4mae_jax.pretext import methods as pretext
from his4mae_jax.settings.methods import METHODS
from his4mae_jax.settings.setting import Scope
from his4mae_jax.settings.table import TABLE


@pytest.mark.parametrize("setting", TABLE.values(), ids=lambda setting: setting.key)
def test_defaults_are_allowed_and_every_setting_is_explained(setting):
    setting.check(setting.default)
    assert setting.help.endswith(".") and setting.kind.rule and "\n" not in setting.help + setting.kind.rule


@pytest.mark.parametrize("key", TABLE)
def test_no_setting_is_hidden_by_a_method_of_the_config_dict(key):
    """`config.teacher.update` would be a method, whatever was set."""
    assert not any(hasattr(ml_collections.ConfigDict, name) for name in key.split("."))


def test_every_method_of_the_table_is_built():
    assert tuple(pretext.METHODS) == METHODS == TABLE["method"].kind.options


@pytest.mark.parametrize(
    "key",
    [
        "train.microbatch", "data.in_memory_gb", "train.checkpoint_every", "data.workers", "data.cache_mb",
        "data.sampler", "data.root", "train.steps_per_call", "train.keep_checkpoints", "data.missing_chunks",
    ],
)  # fmt: skip
def test_what_changes_no_result_is_free(key):
    assert not any(settings.fixed_by_training(key, method) for method in METHODS)
    assert not settings.affects_scores(key)


def test_stages_are_free_of_the_training_and_affect_scores():
    for key, setting in TABLE.items():
        if setting.section in ("segment", "evaluate"):
            assert not settings.fixed_by_training(key, "his4mae") and settings.affects_scores(key), key
        if setting.section in ("model", "objective", "teacher", "codebook"):
            assert settings.fixed_by_training(key, "his4mae") and settings.affects_scores(key), key
        if setting.section == "compare":
            assert setting.scope is Scope.COMPARE and not settings.affects_scores(key), key
        if setting.section == "name":
            assert setting.scope is Scope.NAME and not settings.affects_scores(key), key
        if setting.section == "view":
            assert setting.scope is Scope.VIEW and not settings.affects_scores(key), key
        if setting.section == "export":
            assert setting.scope is Scope.EXPORT and not settings.affects_scores(key), key


def test_ground_truth_is_fixed_by_the_training_of_a_supervised_method():
    for key in ("data.train_labels", "data.binary_labels"):
        assert settings.fixed_by_training(key, "vit") and settings.fixed_by_training(key, "segmenter")
        assert not settings.fixed_by_training(key, "his4mae") and settings.affects_scores(key)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("train.stpes", "train.steps"), ("stride", "segment.stride"), ("modle.depth", "model.depth"), ("zzzzqqq", None)],
)
def test_nearest_key(typed, meant):
    assert settings.nearest_key(typed) == settings.nearest_key(typed, settings.get_default()) == meant
