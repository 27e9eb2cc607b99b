"""Which checkpoint is segmented."""

import pytest

from his4mae_jax.config import get_small
from his4mae_jax.errors import UserError
from his4mae_jax.inference.encoders.opening import chosen_step


class Kept:
    path = "run/checkpoints"

    def steps(self):
        return [10, 20, 30]


@pytest.mark.parametrize(("wanted", "step"), [(0, 30), (10, 10), (20, 20)])
def test_the_checkpoint_that_is_named_or_the_newest(wanted, step):
    config = get_small()
    config.segment.checkpoint = wanted
    assert chosen_step(config, Kept()) == step


def test_a_step_without_a_checkpoint_is_told_with_those_there_are():
    config = get_small()
    config.segment.checkpoint = 15
    with pytest.raises(UserError) as error:
        chosen_step(config, Kept())
    expected = "config key segment.checkpoint is 15: run/checkpoints has those of the steps 10, 20, 30"
    assert str(error.value) == expected
