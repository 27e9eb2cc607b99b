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
from his4mae_jax.report.html.grids import Segmented

HOSTILE = "<script>alert(1)</script>"
SECTIONS = [
    "run", "slices", "clusters", "choice", "scores", "features", "instances", "training", "reconstructions", "further",
]  # fmt: skip


@pytest.fixture
def workdir(tmp_path):
    """A segmented workdir with two clusters, the second of them named by an attacker."""
    rng = np.random.default_rng(0)
    names = {"label_values": {1: "cluster 1", 2: "cluster 2"}}
    for part, low, high, more in (("image", 0, 256, {}), ("labels", 1, 3, names), ("truth", 0, 2, names)):
        array = ome_zarr.create(tmp_path / f"{part}.ome.zarr", (8, 12, 16), np.uint8, 10, **more)
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
    (tmp_path / "metrics.json").write_text(
        json.dumps({"method": "his4mae", "volume": record["volume"], "clusters": 2, "dsc": dsc})
    )
    return tmp_path


def name(workdir, digest):
    named = (clusters_file.Cluster(1, "nucleus", "#56B4E9"), clusters_file.Cluster(2, HOSTILE, "#E69F00"))
    clusters_file.write(workdir / "clusters.yaml", clusters_file.Clusters(digest, "image", named))


def made(workdir, image="image.ome.zarr", truth=None, classes=()):
    image = open_volume(workdir / image)
    truth = truth and open_volume(workdir / truth, image=False)
    segmented = Segmented(image, image, truth, classes)
    return write.write(workdir, workdir, segmented, lambda line: None).read_text()


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def section_ids(text):
    return [attrs["id"] for tag, attrs in Tags(text).found if tag == "section"]


def data(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text).group(1))


def test_every_section_in_one_file_without_urls(workdir):
    text = made(workdir)
    assert section_ids(text) == SECTIONS
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]*", "", text))
    sources = [attrs["src"] for _, attrs in Tags(text).found if "src" in attrs]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert "train.steps" in text and "step 20" in text and 'class="stale"' not in text
    assert [len(axis) for axis in data(text)["axes"]] == [8, 12, 16]
    assert text.index("0.750") < text.index("0.250")  # two clusters of one class: merged first


def test_names_are_text(workdir):
    text = made(workdir)
    assert HOSTILE not in text and "&lt;script&gt;alert(1)" in text
    assert len([tag for tag, _ in Tags(text).found if tag == "script"]) == 2


def test_a_run_that_has_only_trained_shows_its_training(workdir):
    (workdir / "segment.json").unlink()
    text = write.write(workdir, workdir, None, lambda line: None).read_text()
    assert section_ids(text) == ["run", "training", "reconstructions", "further"]
    assert "his4mae segment" in text and "nucleus" not in text


def test_clusters_of_no_class_are_tinted_and_ground_truth_can_be_switched_to(workdir):
    path = workdir / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["dsc"] = {way: {"x": 0.5, "y": 0.5, "mean": 0.5} for way in metrics["dsc"]}
    metrics["matching"] = {"one_to_one": {"1": "y", "2": None}, "many_to_one": {"1": "y", "2": "x"}}
    path.write_text(json.dumps(metrics))
    text = made(workdir, truth="truth.ome.zarr", classes=("x", "y"))
    layers = data(text)["layers"]
    assert [layer["name"] for layer in layers] == ["clusters", "ground truth"]
    clusters, truth = (layer["looks"] for layer in layers)
    assert clusters["2"]["alpha"] < 50 < clusters["1"]["alpha"] and "no class" in clusters["2"]["name"]
    assert truth["1"]["rgb"] == clusters["1"]["rgb"] != truth["0"]["rgb"]  # a class has the colour of its cluster
    assert all(len(one["labels"]) == 2 for axis in data(text)["axes"] for one in axis)


def test_what_is_of_other_labels_is_left_out_and_said(workdir):
    (workdir / "clusters.yaml").unlink()
    name(workdir, "0" * 64)
    metrics = json.loads((workdir / "metrics.json").read_text())
    (workdir / "metrics.json").write_text(json.dumps(metrics | {"clusters": 5}))
    (workdir / "checkpoints" / "40").mkdir(parents=True)
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"method": "sdae"}))  # nothing to reconstruct
    text = made(workdir)
    assert text.count('class="stale"') == 3 and "nucleus" not in text and "0.750" not in text
    assert "sdae has no decoder to pixels" in text


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
        made(workdir, "other.ome.zarr")


def test_instances_are_listed_by_name(workdir):
    rows = "id,voxels,volume_um3\n1,100,0.5\n2,300,1.5\n"
    (workdir / "instances_class2.csv").write_text(rows)
    (workdir / "organelles_nucleus_instances.csv").write_text(rows)
    (workdir / "instances_broken.csv").write_text("id\n1\n")
    text = made(workdir)
    assert "<td>nucleus</td><td>2</td><td>200</td><td>1</td><td>1.5</td>" in text
    assert "<td>class2</td><td>2</td>" in text and "cannot be read" in text


BROWSER = """
setTimeout(async () => {
  const alpha = () => {
    const canvas = at("labels");
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
  };
  const sent = id => at(id).dispatchEvent(new Event("input"));
  const found = [], one = at("grey").src, all = alpha();
  at("slice").value = 0; await show(); found.push(one !== at("grey").src, at("place").textContent.split(",")[0]);
  at("opacity").value = 10; sent("opacity"); found.push(at("labels").style.opacity);
  document.querySelector("#layer0 input").click(); found.push(alpha() < all && alpha() > 0);
  at("layer").value = 1; await show(); found.push(alpha() === all, at("layer0").hidden);
  document.title = found.join("|");
}, 500);
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_the_controls_act_in_a_browser_without_an_error(workdir):
    made(workdir, truth="truth.ome.zarr", classes=("x", HOSTILE))
    page = workdir / "report" / "index.html"
    text = page.read_text()
    assert text.endswith("</script></body></html>\n")
    page.write_text(text.replace("</script></body>", f"{BROWSER}</script></body>"))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom",
         "--enable-logging=stderr", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "<title>true|z = 0|0.1|true|true|true</title>" in done.stdout, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "getImageData" not in line]
    assert not said  # that hint is about the reading back above
