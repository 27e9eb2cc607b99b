"""CITATION.cff says of the software and of the paper what the package and the README say."""

import pathlib

import yaml

from his4mae_jax import __version__

ROOT = pathlib.Path(__file__).parents[1]


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "type"} <= set(citation)
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["title"] in " ".join((ROOT / "README.md").read_text().split())


def test_the_changelog_has_this_version_and_what_comes_next():
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == "## [Unreleased]" and headings[1].startswith(f"## [{__version__}] - ")
