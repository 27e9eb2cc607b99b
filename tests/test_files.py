"""Names made safe for files."""

import pytest

from his4mae_jax.files import slug


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MAESTER, expand-stride", "maester-expand-stride"),
        ("../x", "x"),
        ("Élan µ 2", "elan-2"),
        ("--a--", "a"),
        ("…", ""),
        ("", ""),
    ],
)
def test_slug(name, expected):
    assert slug(name) == expected
    assert slug(name, separator="") == expected.replace("-", "")
