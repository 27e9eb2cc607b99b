"""Layers for napari, and what napari and napari-ome-zarr make of them where they are installed (the extra "napari")."""

import sys
import warnings

import numpy as np
import pytest

from his4mae_jax.errors import UserError
from his4mae_jax.view import layers as plans
from his4mae_jax.view import napari_layers
from his4mae_jax.view.levels import open_levels


@pytest.fixture
def napari():
    """The package, without Qt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at import
        return pytest.importorskip("napari.layers")


@pytest.fixture
def reader():
    """The function of napari-ome-zarr that reads a path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("napari_ome_zarr")

    def read(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return module.napari_get_reader(str(path))(str(path))

    return read


def layer_data(run):
    """(data, keywords, kind) by the name of the layer."""
    found = {}
    for layer in plans.plan(run.image, run.folder, print):
        data, keywords, kind = napari_layers.layer_data(layer, open_levels(layer, run.image))
        found[keywords["name"]] = (data, keywords, kind)
    return found


def full(data):
    return data[0] if isinstance(data, list) else data


def test_voxels_and_places(shown):
    run = shown()
    found = layer_data(run)
    for name, array in run.arrays.items():
        data, keywords, kind = found[name]
        assert np.array_equal(np.asarray(full(data)), array), name
        assert kind == ("image" if name == "image" or name.startswith("probability") else "labels")
        corner = np.subtract(keywords["translate"], np.divide(keywords["scale"], 2))
        assert corner == pytest.approx(np.subtract(run.origin, np.divide(run.size, 2))), name
        assert np.multiply(keywords["scale"], array.shape) == pytest.approx(np.multiply(run.size, (10, 40, 36))), name
        assert keywords["units"] == ("nm", "nm", "nm") and keywords["axis_labels"] == ("z", "y", "x")
        assert keywords["multiscale"] == isinstance(data, list)
    assert [level.shape for level in found["image"][0]] == [(10, 40, 36), (10, 20, 18), (5, 10, 9)]


def test_names_colours_and_contrast(shown):
    found = layer_data(shown())
    organelles = found["organelles"][1]
    assert organelles["features"] == {"index": [1, 2], "name": ["nucleus", "mitochondria"]}
    assert organelles["colormap"][None][3] == organelles["colormap"][0][3] == 0
    assert organelles["colormap"][1] == pytest.approx((0, 0x72 / 255, 0xB2 / 255, 1))
    assert [name for name, (_, keywords, _) in found.items() if keywords["visible"]] == ["image", "organelles"]
    assert found["image"][1]["contrast_limits"] == (20, 230) and found["image"][1]["colormap"] == "gray"
    assert found["probability of cluster 1"][1]["colormap"] == "#56B4E9"
    assert "colormap" not in found["instances of mitochondria"][1]
    assert set(found["instances of mitochondria"][1]["features"]) == {"index", "voxels", "volume_um3"}


def test_dark_and_light_swapped(shown):
    assert layer_data(shown(invert=True))["image"][1]["colormap"] == "gray_r"


def test_napari_takes_every_layer(shown, napari):
    run = shown()
    for name, (data, keywords, kind) in layer_data(run).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = napari.Layer.create(data, keywords, kind)
            layer.set_view_slice()  # what a window does to draw it
            if name in run.arrays:
                array = run.arrays[name]
                at = tuple(np.array(array.shape) // 2)
                world = np.multiply(at, keywords["scale"]) + keywords["translate"]
                assert layer.world_to_data(world) == pytest.approx(at)
                assert full(list(layer.data) if layer.multiscale else layer.data)[at] == array[at], name
            assert tuple(layer.translate) == keywords["translate"] and tuple(layer.scale) == keywords["scale"]
            if name == "organelles":
                assert layer.get_color(2) == pytest.approx((0xCC / 255, 0x79 / 255, 0xA7 / 255, 1), abs=1e-6)
                assert layer.get_color(0) is None or layer.get_color(0)[3] == 0
                assert list(layer.features["name"]) == ["nucleus", "mitochondria"]


def test_napari_ome_zarr_reads_what_was_written(shown, reader):
    run = shown()
    ((data, keywords, kind),) = reader(run.folder / "organelles.ome.zarr")
    assert kind == "labels" and np.array_equal(np.asarray(data[0]), run.arrays["organelles"])
    assert keywords["scale"] == pytest.approx([10, 8, 10]) and keywords["units"] == ("nanometer",) * 3
    # Its release 0.10 takes the first transformation alone, the scale: `his4mae view` places volumes, it does not.
    assert keywords["colormap"][2] == pytest.approx([0xCC / 255, 0x79 / 255, 0xA7 / 255, 1])
    assert keywords["properties"]["index"] == [1, 2]
    assert keywords["properties"]["name"] == ["nucleus", "mitochondria"]
    ((data, keywords, kind),) = reader(run.folder / "probabilities.ome.zarr")
    assert kind == "image" and keywords["channel_axis"] == 0 and data[0].shape == (4, 10, 20, 18)
    assert [name.rpartition(": ")[2] for name in keywords["name"]] == [f"cluster {i}" for i in range(1, 5)]
    assert keywords["contrast_limits"] == [[0, 255]] * 4
    ((data, keywords, kind),) = reader(run.image.name)
    assert kind == "image" and [level.shape for level in data] == [(10, 40, 36), (10, 20, 18), (5, 10, 9)]
    assert keywords["scale"] == pytest.approx(run.size)


def test_without_napari(monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(UserError, match=r"pip install his4mae_jax\[napari\]"):
        napari_layers.module()
