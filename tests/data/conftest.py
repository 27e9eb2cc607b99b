"""How a bad volume is refused."""

import os

import pytest

from his4mae_jax.data.volume import open_volume
from his4mae_jax.errors import UserError


@pytest.fixture
def refusal():
    """Function that opens a bad volume and returns the one line, which names its path."""

    def refusal(path, *args, **kwargs):
        with pytest.raises(UserError) as caught:
            open_volume(path, *args, **kwargs)
        message = str(caught.value)
        assert "\n" not in message and os.fspath(path) in message
        return message

    return refusal
