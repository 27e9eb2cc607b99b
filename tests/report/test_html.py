"""The page of a run: self-contained, escaped, true to the labels in the workdir."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from his4mae_jax.clustering import centres
from his4mae_jax.config import get_default
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.naming import clusters_file
from his4mae_jax.output import records
from his4mae_jax.report.html import write

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def workdir(tmp_path):
    """A segmented workdir with two clusters, the second of them named by an attacker."""
    rng = np.random.default_rng(0)
    for part, low, high in (("image", 0, 256), ("labels", 1, 3)):
        array = ome_zarr.create(tmp_path / f"{part}.ome.zarr", (8, 12, 16), np.uint8, 10)
        array.write(rng.integers(low, high, (8, 12, 16)).astype(np.uint8)).result()
    contrast = {"low": 0.0, "high": 255.0, "invert": False}
    fitted = centres.Centres(rng.random((2, 3), np.float32), np.eye(3, dtype=np.float32))
    centres.save(tmp_path / "centres.npz", {2: fitted}, contrast=contrast)
    config = get_default()
    config.train.steps = 123
    (tmp_path / "config.json").write_text(config.to_json())
    record = {"seconds": 3.0, "step": 20, "clusters": [2], "volume": str(tmp_path / "image.ome.zarr"), "job": "abc"}
    record["what"] = {"first_label": 1, "contrast": contrast, "settings": {"clusters": 2}}
    (tmp_path / "segment.json").write_text(json.dumps(record))
    (tmp_path / "train.jsonl").write_text('{"step": 10, "loss_recon": 0.5, "seconds": 2.0}\n')
    name(tmp_path, records.centres_digest(tmp_path, 2))
    dsc = {"one_to_one": {"x": 0.25, "mean": 0.25}, "many_to_one": {"x": 0.75, "mean": 0.75}}
    metrics = {"volume": record["volume"], "clusters": 2, "dsc": dsc}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    return tmp_path


def name(workdir, digest):
    named = (clusters_file.Cluster(1, "nucleus", "#56B4E9"), clusters_file.Cluster(2, HOSTILE, "#E69F00"))
    clusters_file.write(workdir / "clusters.yaml", clusters_file.Clusters(digest, "image", named))


def made(workdir):
    return write.write(workdir, workdir, open_volume(workdir / "image.ome.zarr"), 2, lambda line: None).read_text()


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_every_section_in_one_file_without_urls(workdir):
    text = made(workdir)
    tags = Tags(text).found
    sections = [attrs["id"] for tag, attrs in tags if tag == "section"]
    assert sections == ["run", "training", "slices", "clusters", "scores", "instances", "further"]
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]*", "", text))
    sources = [attrs["src"] for _, attrs in tags if "src" in attrs]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "train.steps" in text and "step 20" in text and 'class="stale"' not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))
    assert [len(axis) for axis in data] == [8, 12, 16]
    assert text.index("0.750") < text.index("0.250")  # two clusters of one class: merged first


def test_names_are_text(workdir):
    text = made(workdir)
    assert HOSTILE not in text and "&lt;script&gt;alert(1)" in text
    assert len([tag for tag, _ in Tags(text).found if tag == "script"]) == 2


def test_what_is_of_other_labels_is_left_out_and_said(workdir):
    (workdir / "clusters.yaml").unlink()
    name(workdir, "0" * 64)
    metrics = json.loads((workdir / "metrics.json").read_text())
    (workdir / "metrics.json").write_text(json.dumps(metrics | {"clusters": 5}))
    (workdir / "checkpoints" / "40").mkdir(parents=True)
    text = made(workdir)
    assert text.count('class="stale"') == 3 and "nucleus" not in text and "0.750" not in text


def test_a_page_of_the_user_is_not_replaced_and_ours_is(workdir):
    made(workdir)
    made(workdir)
    (workdir / "report" / "report.json").unlink()
    (workdir / "report" / "index.html").write_text("mine")
    with pytest.raises(UserError, match="in the way"):
        made(workdir)
    assert (workdir / "report" / "index.html").read_text() == "mine"


def test_labels_of_another_volume_are_refused(workdir):
    shutil.copytree(workdir / "image.ome.zarr", workdir / "other.ome.zarr")
    with pytest.raises(UserError, match="not of"):
        write.write(workdir, workdir, open_volume(workdir / "other.ome.zarr"), 2, lambda line: None)


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_slider_moves_the_slice_in_a_browser(workdir):
    made(workdir)
    page = workdir / "report" / "index.html"
    script = (
        "const one = at('grey').src; at('slice').value = 0; at('slice').dispatchEvent(new Event('input'));"
        "at('opacity').value = 10; at('opacity').dispatchEvent(new Event('input'));"
        "document.title = [one !== at('grey').src, at('place').textContent, at('labels').style.opacity].join('|');"
    )
    page.write_text(page.read_text().replace("choose();\n</script>", f"choose();\n{script}</script>"))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<title>true|z = 0|0.1</title>" in done.stdout, done.stderr[-2000:]
