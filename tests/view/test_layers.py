import json

import numpy as np
import pytest

from his4mae_jax import palette
from his4mae_jax.data.stores.placement import coarser
from his4mae_jax.errors import UserError
from his4mae_jax.view import layers as plans
from his4mae_jax.view.table import columns, segment_properties


def by_name(run, log=print):
    return {layer.name: layer for layer in plans.plan(run.image, run.folder, log)}


def test_layers_from_the_image_up(shown, said):
    run = shown()
    layers = by_name(run, said.append)
    assert list(layers) == [
        "image", "labels, C = 6", "labels", "organelles", "instances of cluster 1", "instances of cluster 2",
        "instances of mitochondria", *(f"probability of cluster {i}" for i in range(1, 5)),
    ]  # fmt: skip
    assert [name for name, layer in layers.items() if layer.visible] == ["image", "organelles"]
    assert (layers["image"].contrast.low, layers["image"].contrast.high) == (20, 230)
    assert not said


def test_names_and_colours_are_those_of_the_metadata(shown):
    run = shown()
    layers = by_name(run)
    assert layers["organelles"].names == run.names and layers["organelles"].colours == run.colours
    assert layers["labels"].names == {i: f"cluster {i}" for i in range(1, 5)}
    assert layers["labels"].colours == {i: palette.colour(i) for i in range(1, 5)}
    assert layers["probability of cluster 3"].colours == {0: palette.colour(3)}


def test_0_has_neither_name_nor_colour():
    label = {
        "properties": [{"label-value": 0, "name": "outside"}, {"label-value": 7, "name": "golgi"}],
        "colors": [{"label-value": 0, "rgba": [1, 2, 3, 255]}, {"label-value": 7, "rgba": [255, 0, 16, 255]}],
    }
    assert plans.image_label({"image-label": label}) == ({7: "golgi"}, {7: "#FF0010"})


def test_every_layer_lies_where_its_voxels_are(shown):
    run = shown()
    layers = by_name(run)
    assert (layers["image"].voxel_size_nm, layers["image"].origin_nm) == (run.size, run.origin)
    for name, layer in layers.items():
        if name != "image":
            assert layer.voxel_size_nm == (10, 8, 10) and layer.origin_nm == coarser(run.origin, run.size, (1, 2, 2)), (
                name
            )


def test_clusters_are_visible_before_they_have_names(shown):
    layers = by_name(shown(named=False))
    assert [name for name, layer in layers.items() if layer.visible] == ["image", "labels"]


def test_names_of_other_labels_are_left_out(shown, said):
    run = shown()
    shown.record(run.folder / "names.json", ["organelles.ome.zarr"], job="job 0")
    layers = by_name(run, said.append)
    assert "organelles" not in layers and layers["labels"].visible
    assert said == ["view: organelles.ome.zarr left out: of an earlier segmentation"]


def test_files_that_are_gone_are_left_out(shown):
    run = shown()
    shown.record(run.folder / "outputs.json", ["instances_other.ome.zarr", "../instances_cluster1.ome.zarr"])
    assert not [name for name in by_name(run) if name.startswith("instances of cluster")]


def test_a_folder_without_labels_says_so(shown, tmp_path):
    with pytest.raises(UserError, match="segment"):
        plans.plan(shown().image, tmp_path, print)


def test_labels_that_are_gone(shown):
    run = shown(named=False)
    for name in ("labels.ome.zarr", "labels_c6.ome.zarr"):
        (run.folder / name).rename(run.folder.parent / name)
    with pytest.raises(UserError, match="are gone; segment again"):
        plans.plan(run.image, run.folder, print)


@pytest.mark.parametrize("content", [{"outputs": 3}, {"outputs": [3]}, {"outputs": ["a"], "of": "b"}])
def test_a_damaged_record(shown, content):
    run = shown()
    (run.folder / "names.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"names\.json: damaged"):
        plans.plan(run.image, run.folder, print)


def test_the_text_lists_ids_and_names(shown):
    text = plans.described(plans.plan((run := shown()).image, run.folder, print)).splitlines()
    assert "  organelles: 1 nucleus, 2 mitochondria" in text and "  image" in text
    assert any(line.startswith("  labels: 1 cluster 1") and line.endswith("(hidden at first)") for line in text)


def test_tables_of_names_and_of_instances(shown):
    run = shown()
    layers = by_name(run)
    assert columns(layers["organelles"]) == {"id": [1, 2], "name": list(run.names.values())}
    instances = columns(layers["instances of cluster 2"])
    ids, counts = np.unique(run.arrays["instances of cluster 2"], return_counts=True)
    assert instances["id"] == list(ids[1:]) and instances["voxels"] == list(counts[1:])
    assert instances["volume_um3"] == pytest.approx(counts[1:] * 800e-9)
    listed = segment_properties(layers["instances of cluster 2"])["inline"]
    assert listed["ids"] == [str(i) for i in ids[1:]]
    assert [p["id"] for p in listed["properties"]] == ["label", "voxels", "volume_um3"]
    assert listed["properties"][0]["values"][0] == f"{counts[1] * 800e-9:.3g} µm³"
    assert segment_properties(layers["image"]) is None


def test_a_damaged_table(shown):
    run = shown()
    (run.folder / "instances_cluster2.csv").write_text("id,voxels\n1,many\n")
    with pytest.raises(UserError, match=r"instances_cluster2\.csv: no table of instances"):
        columns(by_name(run)["instances of cluster 2"])
