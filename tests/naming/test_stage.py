"""clusters.yaml after a segmentation: written, kept, put aside, carried to another volume."""

import json
import os

import numpy as np
import pytest

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.naming import clusters_file, stage

NAMES = {i: f"cluster {i}" for i in range(1, 5)}


def organelles(folder):
    return open_volume(folder / "organelles.ome.zarr", image=False).read((slice(None),) * 3)


def test_each_cluster_is_described(segmented, config):
    run, lines = segmented(), []
    stage.after_segment(config, run.folder, run.target, lines.append)
    clusters = clusters_file.read(run.file, list(NAMES)).clusters
    assert [c.name for c in clusters] == list(NAMES.values()) and clusters[0].colour == "#56B4E9"
    assert all(np.isclose(c.mean_grey, run.grey[run.labels == c.id].mean(), rtol=1e-3) for c in clusters)
    assert np.isclose(sum(c.fraction for c in clusters), 1, atol=1e-5)
    assert len(lines) == 1 and "name them there" in lines[0]
    assert "organelles.ome.zarr" not in os.listdir(run.folder)


def test_names_stay_with_the_same_centres(named, segmented, config):
    stage.name(config, named.folder, print)
    before, lines = named.file.read_bytes(), []
    stage.after_segment(config, named.folder, named.target, lines.append)  # labels that were there already
    assert named.file.read_bytes() == before and "stay" in lines[0]
    centres = (named.folder / "centres.npz").read_bytes()
    again = segmented(seed=5, job="job 2")  # other labels of the same centres: another stride, or another volume
    (named.folder / "centres.npz").write_bytes(centres)
    stage.after_segment(config, again.folder, again.target, lines.append)
    assert named.file.read_bytes() == before
    assert np.array_equal(organelles(named.folder), np.array([0, 1, 2, 0, 2])[again.labels])
    assert not list(named.folder.glob("clusters.previous*"))


def test_names_of_other_centres_are_kept_aside(named, segmented, config):
    stage.name(config, named.folder, print)
    text, lines = named.file.read_text(), []
    again = segmented(seed=5, job="job 2")
    with pytest.raises(UserError, match="names clusters of other centres"):
        stage.name(config, named.folder, print)
    stage.after_segment(config, again.folder, again.target, lines.append)
    assert (named.folder / "clusters.previous-1.yaml").read_text() == text
    assert sum("clusters.previous-1.yaml" in line for line in lines) == 1
    assert [c.name for c in clusters_file.read(named.file).clusters] == list(NAMES.values())
    assert not (named.folder / "organelles.ome.zarr").exists() and not (named.folder / "names.json").exists()


def test_names_travel_with_the_centres(named, segmented, config):
    other = segmented("other", seed=7, image_name="cell 2")
    config.segment.centres_file = str(named.folder / "centres.npz")
    (other.folder / "centres.npz").write_bytes((named.folder / "centres.npz").read_bytes())
    lines = []
    stage.after_segment(config, other.folder, other.target, lines.append)
    theirs = clusters_file.read(other.file)
    assert [c.name for c in theirs.clusters] == ["cytoplasm", "mitochondria", "Ignore", "mitochondria"]
    assert theirs.volume == "cell 2" and str(named.file) in lines[0]
    assert np.isclose(theirs.clusters[0].fraction, (other.labels == 1).sum() / (other.labels > 0).sum(), atol=1e-5)
    stage.name(config, other.folder, print)
    assert np.array_equal(organelles(other.folder), np.array([0, 1, 2, 0, 2])[other.labels])


def test_classes_of_a_probe_keep_their_names_when_it_is_fitted_again(segmented, config):
    run, lines = segmented(), []

    def fitted(seed, names=("er", "golgi", "nucleus", "other")):
        weights = np.random.default_rng(seed).normal(size=(4, 3))
        np.savez(run.folder / "centres.npz", facts=json.dumps({"class_names": names}), class_weights=weights)
        stage.after_segment(config, run.folder, run.target, lines.append)

    fitted(0)
    run.file.write_text(run.file.read_text().replace("#56B4E9", "#112233"))
    text = run.file.read_text()
    fitted(1)
    assert run.file.read_text() == text and "stay" in lines[-1]
    fitted(1, ("er", "golgi", "nucleus", "vesicles"))
    assert run.file.read_text() != text and (run.folder / "clusters.previous-1.yaml").read_text() == text


def test_centres_of_another_fit_bring_no_names(named, segmented, config):
    other = segmented("other", seed=7)
    config.segment.centres_file = str(named.folder / "centres.npz")
    stage.after_segment(config, other.folder, other.target, print)
    assert [c.name for c in clusters_file.read(other.file).clusters] == list(NAMES.values())


def test_instances_of_names_are_checked_before_anything_long(named, segmented, config):
    config.segment.instances = (1, "mitochondria", "all", "cluster 2")
    of_labels = stage.check(config, named.folder, NAMES)
    assert of_labels.segment.instances == (1, "all", "cluster 2") and len(config.segment.instances) == 4
    config.segment.instances = ("golgi",)
    with pytest.raises(
        UserError, match=r"'golgi'; choose of cluster 1, .*cluster 4, cytoplasm, mitochondria, or 'all'"
    ):
        stage.check(config, named.folder, NAMES)
    with pytest.raises(UserError, match="'golgi'; choose of cluster 1"):
        stage.check(config, named.folder.parent / "new", NAMES)
    named.file.write_text("clusters: [")
    config.segment.instances = ()
    with pytest.raises(UserError, match="not YAML"):
        stage.check(config, named.folder, NAMES)


def test_a_segmentation_writes_the_instances_of_names(named, config):
    config.segment.instances = ("mitochondria",)
    stage.after_segment(config, named.folder, named.target, print)
    assert (named.folder / "organelles_mitochondria_instances.csv").exists()


def test_names_that_no_cluster_has_any_more(named, segmented, config):
    config.segment.instances, lines = ("mitochondria",), []
    again = segmented(seed=5, job="job 2")
    stage.after_segment(config, again.folder, again.target, lines.append)
    assert any("no cluster has the name mitochondria any more" in line for line in lines)


@pytest.fixture
def scored(segmented, config):
    run = segmented()
    stage.after_segment(config, run.folder, run.target, print)
    centres = clusters_file.read(run.file).centres
    many = {"1": "cell", "2": "er", "3": "er", "4": None}
    one = {"1": "cell", "2": None, "3": "er", "4": None}
    metrics = {"matching": {"centres": centres, "one_to_one": one, "many_to_one": many}}
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    return run


def test_names_from_ground_truth(scored, config):
    config.name.from_truth = "many_to_one"
    stage.name(config, scored.folder, print)
    names = [c.name for c in clusters_file.read(scored.file).clusters]
    assert names == ["cell", "er", "er", "cluster 4"] and not list(scored.folder.glob("clusters.previous*"))
    assert np.array_equal(organelles(scored.folder), np.array([0, 1, 2, 2, 3])[scored.labels])
    stage.name(config, scored.folder, print)  # once more changes nothing
    assert not list(scored.folder.glob("clusters.previous*"))

    config.name.from_truth = "one_to_one"
    text = scored.file.read_text().replace("name: er", "name: endoplasmic reticulum")
    scored.file.write_text(text)
    lines = []
    stage.name(config, scored.folder, lines.append)
    assert (scored.folder / "clusters.previous-1.yaml").read_text() == text and "previous-1" in lines[0]
    names = [c.name for c in clusters_file.read(scored.file).clusters]
    assert names == ["cell", "endoplasmic reticulum", "er", "cluster 4"]


def test_no_names_from_other_scores(scored, config):
    config.name.from_truth = "many_to_one"
    path = scored.folder / "metrics.json"
    before = scored.file.read_bytes()
    metrics = json.loads(path.read_text())
    metrics["matching"]["centres"] = "other"
    for text, words in (
        (json.dumps(metrics), "scores other clusters"), ('{"dsc": {}}', "holds no matching"), ("{", "holds no"),
        ('{"matching": null}', "holds no"), (None, "`his4mae evaluate` first"),
    ):  # fmt: skip
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(UserError, match=words):
            stage.name(config, scored.folder, print)
        assert scored.file.read_bytes() == before and not (scored.folder / "organelles.ome.zarr").exists()


def test_labels_that_are_not_there(tmp_path, named, config):
    with pytest.raises(UserError, match="no segmentation"):
        stage.name(config, tmp_path / "nowhere", print)
    named.file.unlink()
    with pytest.raises(UserError, match="clusters.yaml: not there"):
        stage.name(config, named.folder, print)
    (named.folder / "centres.npz").unlink()
    with pytest.raises(UserError, match=r"centres.npz: no such centres file"):
        stage.name(config, named.folder, print)
