"""The documentation site builds without a warning, and the README's links and picture are there."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

needs_mkdocs = pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs the extra docs")


def build(folder, out):
    """`mkdocs build --strict`; its exit status and its output. With `--quiet` it would not count warnings."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=folder,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@needs_mkdocs
def test_the_site_builds_without_a_warning(tmp_path):
    status, said = build(ROOT, tmp_path / "site")
    assert status == 0 and "WARNING" not in said, said
    site = tmp_path / "site"
    assert "docs/images" not in (site / "index.html").read_text("utf-8") and (site / "images/demo_slice.png").is_file()
    assert "open_volume" in (site / "api" / "data.volumes.html").read_text("utf-8")
    rooms = {path.parent.name for path in (ROOT / "his4mae_jax").glob("*/__init__.py")}
    pages = {path.name.split(".")[0] for path in (site / "api").glob("*.html")}
    assert rooms - {"data", "training"} <= pages and (site / "api" / "data.known.html").is_file()


@needs_mkdocs
@pytest.mark.parametrize("link", ["[x](no_such_page.md)", "[x](method.md#no-such-heading)"])
def test_a_broken_link_fails_the_build(tmp_path, link):
    for name in ("docs", "mkdocs.yml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "tutorial.md").write_text(link)
    text = (tmp_path / "mkdocs.yml").read_text().replace("hooks: [docs/api_pages.py]\n", "")
    (tmp_path / "mkdocs.yml").write_text(text)
    (tmp_path / "docs" / "api").mkdir()
    (tmp_path / "docs" / "api" / "index.md").write_text("# API\n")
    (tmp_path / "mkdocs.yml").write_text(text.replace("  - Code: code.md", "  - Code: code.md\n  - API: api/index.md"))
    status, said = build(tmp_path, tmp_path / "site")
    assert status and "no" in said and "tutorial.md" in said


def headings(path):
    """Anchors of a page's headings, as GitHub and MkDocs make them."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_outside_the_site_lead_somewhere(name):
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    for link in links:
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            assert not path or (ROOT / path).exists(), link
            assert not anchor or anchor in headings(ROOT / (path or name)), link


def named_files():
    """(page, path) of every file of the project that a page, or the docstring of a config, names as `room/file.py`."""
    pages = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "configs").rglob("*.py")]
    pattern = r"(?<![\w./:-])((?:[\w-]+/)+[\w-]+\.(?:py|sh|yaml|md|txt))\b"
    return sorted({(p.name, path) for p in pages for path in re.findall(pattern, p.read_text(encoding="utf-8"))})


def test_files_that_are_named_exist():
    named = named_files()
    folders = (ROOT, ROOT / "his4mae_jax", ROOT / "docs")
    made = ("runs/", "site/", "api/", "data/cell")  # by a run, by `make docs`, or the reader's own
    missing = [
        (page, path)
        for page, path in named
        if not path.startswith(made) and not any((folder / path).is_file() for folder in folders)
    ]
    assert not missing
    assert sum(path.endswith(".py") for _, path in named) >= 60


def test_the_picture_is_small():
    (picture,) = re.findall(r"!\[[^\]]+\]\((\S+\.png)\)", README)
    assert (ROOT / picture).stat().st_size < 300_000
