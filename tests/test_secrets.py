"""Secrets in URLs are not shown or kept, and text in tables is no formula."""

import csv
import io

import pytest

from his4mae_jax.errors import UserError, mask
from his4mae_jax.evaluation.tables import write_metrics
from his4mae_jax.files import csv_cell
from his4mae_jax.progress import say


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://ann:s3cret@host/cell.zarr: gone", "https://***@host/cell.zarr: gone"),
        ("s3://bucket/a?endpoint=http://ann:s3cret@host:9", "s3://bucket/a?endpoint=http://***@host:9"),
        ("https://h/a.zarr?sv=1&sig=s3cret%2F&se=2", "https://h/a.zarr?sv=1&sig=***&se=2"),
        ("https://h/a?X-Amz-Credential=s3cret/x&X-Amz-Signature=s3cret[0:9, :]", "https://h/a?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("'https://h/a?token=s3cret'", "'https://h/a?token=***'"),
        ("s3://b/a?endpoint=https%3A//h%3FAPI_KEY%3Ds3cret", "s3://b/a?endpoint=https%3A//h%3FAPI_KEY%3D***"),
        ("https://h/a?GoogleAccessId=me&Signature=s3cret", "https://h/a?GoogleAccessId=me&Signature=***"),
    ],
)  # fmt: skip
def test_secrets_are_masked_in_messages(text, masked, capsys):
    assert mask(text).startswith(masked) and "s3cret" not in mask(text)
    assert str(UserError(text)) == mask(text)
    say(text)
    assert capsys.readouterr().err == mask(text) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a?region=eu-1&endpoint=http://host:9000",
        "a@b.org",
        "cell.zarr[0:9, :, :]",
        "data/a=b.tif",
        "x://h/a@b",
    ],
)
def test_all_else_stays(text):
    assert mask(text) == text


def test_a_traceback_is_masked(monkeypatch, capsys):
    from his4mae_jax.cli import process

    monkeypatch.setattr(process.preemption, "install", lambda: None)

    def parse():
        raise RuntimeError("https://ann:s3cret@host/a")

    with pytest.raises(SystemExit):
        process.execute(parse)
    said = capsys.readouterr().err
    assert "https://***@host/a" in said and "s3cret" not in said


def test_one_volume_under_two_signatures_is_one_volume():
    from his4mae_jax.evaluation.evaluate import same_volume

    assert same_volume("https://h/a?sig=***", "https://h/a?sig=new") and not same_volume("https://h/a", "https://h/b")


@pytest.mark.parametrize("name", ["=1+1", "+cmd|x", "-2", "@SUM(A1)", "\t=1"])
def test_text_is_no_formula(name, tmp_path):
    assert csv_cell(name) == f"'{name}" and csv_cell("nucleus =") == "nucleus =" and csv_cell(-1.5) == -1.5
    write_metrics({"method": name, "clusters": 2, "dsc": {"one_to_one": {name: 0.5, "mean": 0.5}}}, tmp_path)
    rows = list(csv.reader(io.StringIO((tmp_path / "metrics.csv").read_text())))
    assert rows[1] == [f"'{name}", "one_to_one", "2", f"'{name}", "0.5"]
