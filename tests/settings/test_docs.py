import pathlib

from his4mae_jax.settings import docs
from his4mae_jax.settings.table import TABLE

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_that_of_the_table():
    assert PAGE.read_text(encoding="utf-8") == docs.page(), (
        "run: python -m his4mae_jax.settings.docs > docs/settings.md"
    )


def test_the_page_has_every_setting():
    assert set(docs.SECTIONS) == {setting.section for setting in TABLE.values()}
    assert all(f"| `{key}` |" in docs.page() for key in TABLE)
