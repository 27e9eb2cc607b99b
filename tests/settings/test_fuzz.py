"""Every value of every setting is refused in one line that names the key, or can be used."""

import functools
import math

import hypothesis
import jax
import pytest
from hypothesis import strategies as st

from his4mae_jax import settings
from his4mae_jax.errors import UserError
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.settings import kinds
from his4mae_jax.settings.table import TABLE, value_of
from his4mae_jax.training.step import state as states
from his4mae_jax.training.step.optimizer import schedule
from his4mae_jax.training.step.settings import StepSettings

POOL = (-1, 0, 1e9, 0.5, math.nan, math.inf, "", None, ())
NASTY = st.sampled_from((*POOL, True, -0.0, 1, 10**20, 5e-324, "zyx", "\0", (None,), [[]], {}, b"", 1j, object))
TRAINED = [key for key in TABLE if key.split(".")[0] not in ("seed", "data", "segment", "evaluate", "compare")]


def values(kind):
    """Values of the type that a kind allows, most of them allowed."""
    match kind:
        case kinds.Whole():
            return st.integers(kind.low - 2, kind.high + 2) | st.integers(kind.low, min(kind.low + 20, kind.high))
        case kinds.Number():
            return st.floats(kind.low, kind.high) | st.floats()
        case kinds.Flag():
            return st.booleans()
        case kinds.Choice():
            return st.sampled_from(kind.options)
        case kinds.Letters():
            return st.text(kind.alphabet, max_size=4)
        case kinds.Text():
            return st.text(max_size=5)
        case kinds.Several():
            several = st.lists(values(kind.each), max_size=3)
            return several | several.map(tuple)
        case kinds.Either():
            return values(kind.first) | values(kind.second)
        case kinds.Row():
            return st.tuples(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2) | st.text(max_size=3))


def put(config, key, value):
    *sections, name = key.split(".")
    section = functools.reduce(lambda s, part: s[part], sections, config)
    with config.ignore_type():
        section[name] = value


def accepted(config, key):
    try:
        settings.validate(config)
    except UserError as error:
        assert key in str(error) and "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("key", TABLE)
@hypothesis.settings(max_examples=15, deadline=None, database=None)
@hypothesis.given(data=st.data())
def test_every_value_is_refused_by_name_or_allowed(key, data):
    config = settings.get_default()
    value = data.draw(NASTY | values(TABLE[key].kind))
    put(config, key, value)
    value = value_of(config, key)  # a ConfigDict makes a float of an int, and of a bool
    assert accepted(config, key) <= TABLE[key].kind.allows(value)


def test_the_table_allows_few_of_the_values_that_make_no_sense():
    """Of the nine values and every key; what is allowed is meant: zeros, halves, and empty texts and tuples."""
    allowed = 0
    for key in TABLE:
        for value in POOL:
            config = settings.get_default()
            put(config, key, value)
            if accepted(config, key):
                allowed += 1
                assert value in (0, 0.5, "", ()) or (key, value) in [
                    ("data.channel", -1),
                    ("data.pool_bricks", -1),
                    ("data.phantom.seed", -1),
                ]
    assert allowed < 96


def small(setting):
    """Values that a setting allows, small ones of numbers without a bound that matters."""
    match setting.kind:
        case kinds.Whole(low=low):
            return st.sampled_from((setting.default, low, low + 1, 4 * low, 8 * low))
        case kinds.Number(low=low, high=high):
            return st.floats(low, min(high, low + 2))
        case kinds.Several():
            return st.tuples(*[values(setting.kind.each)] * 2)
    return values(setting.kind)


@hypothesis.settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_what_is_allowed_can_be_built(data):
    """Parameters, state and learning rates of a method, with two settings drawn at random."""
    config = settings.get_default()
    config.model.fov, config.model.depth, config.model.decoder_depth = 20, 1, 1
    config.data.crop_min, config.segment.stride = 20, 20
    put(config, "method", data.draw(st.sampled_from(sorted(METHODS))))
    for key in data.draw(st.lists(st.sampled_from(TRAINED), min_size=2, max_size=2)):
        put(config, key, data.draw(small(TABLE[key])))
    try:
        settings.validate(config)
    except UserError:
        hypothesis.reject()
    config.supervised.classes = config.supervised.classes or 3  # as the run finds in its data
    step_settings = StepSettings.from_config(config)
    jax.eval_shape(lambda: states.create(step_settings))
    for peak in (config.train.lr, config.codebook.lr):
        rate = schedule(peak, step_settings.optimizer)
        assert all(0 <= float(rate(step)) <= peak * 1.001 for step in (0, 1, 10))
