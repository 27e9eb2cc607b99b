"""TIFF, precomputed and CellSketch files, opened by what others read them with."""

import json
import os
import pathlib

import numpy as np
import pytest
import tensorstore as ts
import tifffile

from his4mae_jax.data.ome_zarr.pyramid import build_pyramid
from his4mae_jax.data.volumes import blocks
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output import tiff_stack
from his4mae_jax.output.cellsketch import write_cellsketch
from his4mae_jax.output.instances import label_instances
from his4mae_jax.output.neuroglancer import write_precomputed
from his4mae_jax.output.tiff_stack import write_tiff

ALL = (slice(None),) * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32])
@pytest.mark.parametrize("depth", [1, 5])
def test_tiff_is_read_with_its_voxel_size(tmp_path, in_memory, dtype, depth):
    data = (np.random.default_rng(0).random((depth, 9, 7)) * 300 - 20 * (np.dtype(dtype).kind in "if")).astype(dtype)
    write_tiff(in_memory(data), tmp_path / "v.tif")
    with tifffile.TiffFile(tmp_path / "v.tif") as tif:
        assert len(tif.pages) == depth and not tif.is_bigtiff
        assert {page.compression for page in tif.pages} == {tifffile.COMPRESSION.ADOBE_DEFLATE}
        about, page = tif.imagej_metadata, tif.pages[0]
        assert about["slices"] == depth and about["unit"] == "micron" and about["spacing"] == pytest.approx(0.03)
        lengths = [page.tags[t].value for t in ("YResolution", "XResolution")]
        assert [b / a for a, b in lengths] == pytest.approx([0.008, 0.004])  # µm a pixel
        np.testing.assert_array_equal(tif.asarray().reshape(data.shape), data)
        assert [len(tif.series), tif.series[0].dtype] == [1, dtype]
    if depth > 1:
        volume = open_volume(tmp_path / "v.tif", image=False) if dtype == np.uint32 else open_volume(tmp_path / "v.tif")
        assert volume.voxel_size_nm == pytest.approx((30, 8, 4))
        np.testing.assert_array_equal(volume.read(ALL), data)
    assert os.listdir(tmp_path) == ["v.tif"]


def test_large_tiff_is_a_bigtiff_written_slab_by_slab(tmp_path, in_memory, monkeypatch):
    monkeypatch.setattr(tiff_stack, "CLASSIC_BYTES", 1000)
    monkeypatch.setattr(blocks, "SLAB_BYTES", 3 * 10 * 20)
    data = np.random.default_rng(0).integers(0, 255, (10, 10, 20), np.uint8)
    volume, reads = in_memory(data), []
    read = volume.read
    volume.read = lambda box: reads.append(box[0].stop - box[0].start) or read(box)
    write_tiff(volume, tmp_path / "v.tif")
    assert reads == [3, 3, 3, 1]
    with tifffile.TiffFile(tmp_path / "v.tif") as tif:
        assert tif.is_bigtiff
        np.testing.assert_array_equal(tif.asarray(), data)


def test_a_tiff_that_fails_leaves_nothing(tmp_path, in_memory, small_disk):
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 128), np.uint8)
    with pytest.raises(UserError, match="v.tif: no space"):
        write_tiff(in_memory(noise), small_disk / "v.tif")
    assert os.listdir(small_disk) == []
    write_tiff(in_memory(noise[:2, :3, :4]), small_disk / "v.tif")
    assert tifffile.imread(small_disk / "v.tif").shape == (2, 3, 4)
    with pytest.raises(UserError, match="file stands where a folder"):
        (tmp_path / "file").write_text("")
        write_tiff(in_memory(noise), tmp_path / "file" / "v.tif")


def scale(folder, index):
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder}/"}, "scale_index": index,
    }  # fmt: skip
    array = ts.open(spec).result()
    return array[..., 0].read().result().T  # x, y, z in the file


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_precomputed_holds_every_level_and_name(tmp_path, label_volume, patches, version):
    labels = patches((70, 30, 40))
    labels += 1
    labels[:3] = 0
    path = label_volume(labels, version=version, size=(8.4, 4, 4))
    build_pyramid(path, levels=3)
    names = {1: "cytoplasm", 2: "µ", 3: "c", 4: "d"}
    write_precomputed(path, tmp_path / "seg", names=names)
    info = json.loads((tmp_path / "seg" / "info").read_text())
    assert info["@type"] == "neuroglancer_multiscale_volume" and info["type"] == "segmentation"
    assert (info["data_type"], info["num_channels"]) == ("uint32", 1)
    assert [s["resolution"] for s in info["scales"]] == [[4, 4, 8.4], [8, 8, 8.4], [16, 16, 16.8]]
    assert [s["size"] for s in info["scales"]] == [[40, 30, 70], [20, 15, 70], [10, 8, 35]]
    for s in info["scales"]:
        assert s["encoding"] == "compressed_segmentation" and s["compressed_segmentation_block_size"] == [8, 8, 8]
        assert (tmp_path / "seg" / s["key"]).is_dir() and s["chunk_sizes"] == [[64, 64, 64]]
    np.testing.assert_array_equal(scale(tmp_path / "seg", 0), labels)
    volume = open_volume(tmp_path / "seg", image=False)
    assert volume.voxel_size_nm == pytest.approx((8.4, 4, 4)) and volume.shape == labels.shape
    np.testing.assert_array_equal(scale(tmp_path / "seg", 2), open_level(path, 2))
    properties = json.loads((tmp_path / "seg" / info["segment_properties"] / "info").read_text())
    assert properties["@type"] == "neuroglancer_segment_properties"
    (label,) = properties["inline"]["properties"]
    assert label["type"] == "label" and label["id"]
    assert dict(zip(properties["inline"]["ids"], label["values"], strict=True)) == {
        "1": "cytoplasm", "2": "µ", "3": "c", "4": "d",
    }  # fmt: skip
    assert "partial.seg" not in os.listdir(tmp_path)


def open_level(path, index):
    driver = "zarr3" if (path / "zarr.json").exists() else "zarr"
    return ts.open({"driver": driver, "kvstore": f"file://{path}/{index}/"}).result().read().result()


def test_precomputed_instances_keep_their_ids(tmp_path, label_volume, patches):
    ids = np.zeros((4, 6, 8), np.uint32)
    ids[1, 2, 3], ids[3] = 255, 70_000
    write_precomputed(label_volume(ids, names={}), tmp_path / "seg")
    np.testing.assert_array_equal(scale(tmp_path / "seg", 0), ids)
    assert "segment_properties" not in json.loads((tmp_path / "seg" / "info").read_text())


def test_precomputed_is_whole_or_not_there(tmp_path, label_volume, patches, small_disk):
    path = label_volume(patches((12, 20, 20)))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="thesis: in the way"):
        write_precomputed(path, tmp_path / "thesis")
    assert os.listdir(tmp_path / "thesis") == ["chapter.tex"]
    noise = np.random.default_rng(0).integers(0, 2**32, (64, 64, 64), np.uint32)
    with pytest.raises(UserError, match="seg: no space"):
        write_precomputed(label_volume(noise, name="noise.ome.zarr", names={}), small_disk / "seg")
    assert os.listdir(small_disk) == []


def cellsketch_reads(folder):
    """(image, {(name, kind): file}, voxel size in µm), by the rules of CellSketch."""
    entities, images = {}, []
    for file in sorted(pathlib.Path(folder).iterdir()):
        parts = file.stem.lower().rsplit("_", 2)
        if len(parts) == 3 and parts[2] in ("mask", "label", "labels"):
            entities[parts[1], parts[2].rstrip("s")] = (parts[0], file)
        else:
            images.append(file)
    (image,) = images
    assert {prefix for prefix, _ in entities.values()} == {image.stem.lower()}
    with tifffile.TiffFile(image) as tif:
        page = tif.pages[0]
        assert page.tags["ResolutionUnit"].value == 1  # pixels a unit of ImageJ's, not an inch or a cm
        size = [tif.imagej_metadata["spacing"]]
        size += [1 / (page.tags[t].value[0] / page.tags[t].value[1]) for t in ("YResolution", "XResolution")]
    return image, {key: file for key, (_, file) in entities.items()}, size


def test_cellsketch_finds_all_parts_of_the_cell(tmp_path, label_volume, patches, in_memory):
    labels = patches((12, 30, 30), 3)
    raw = np.random.default_rng(0).integers(0, 2000, labels.shape, np.uint16)
    cell = np.where(np.indices(labels.shape)[2] < 5, 255, 0).astype(np.uint8)
    path = label_volume(labels)
    names = {0: "cluster 0", 1: "Mito-chondria", 2: "granules"}
    mito = label_instances(path, 1, tmp_path / "mito.ome.zarr", tmp_path / "mito.csv", min_voxels=20)
    write_cellsketch(
        tmp_path / "out", "high_c4", in_memory(raw), open_volume(path, image=False), names, {1: mito},
        cell=in_memory(cell),
    )  # fmt: skip
    image, entities, size = cellsketch_reads(tmp_path / "out")
    assert image.name == "high_c4.tif" and size == pytest.approx([0.03, 0.008, 0.004])
    np.testing.assert_array_equal(tifffile.imread(image), raw)
    assert set(entities) == {
        ("cluster0", "mask"), ("mitochondria", "mask"), ("granules", "mask"), ("plasmamembrane", "mask"),
        ("mitochondria", "label"),
    }  # fmt: skip
    for label, name in enumerate(("cluster0", "mitochondria", "granules")):
        mask = tifffile.imread(entities[name, "mask"])
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, (labels == label) * 255)
    np.testing.assert_array_equal(tifffile.imread(entities["plasmamembrane", "mask"]), (cell != 255) * 255)
    ids = tifffile.imread(entities["mitochondria", "label"])
    assert ids.dtype == np.uint16 and ids.max() == mito.count > 1
    assert ((ids > 0) <= (labels == 1)).all()


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_no_writer_replaces_anything(tmp_path, patches, in_memory, label_volume):
    """Files, folders, links that lead nowhere, and names that are used while something is written."""
    array = patches((3, 8, 8), 2)
    path, labels, names = label_volume(array), in_memory(array), {0: "a", 1: "b"}
    writers = {
        "mine.tif": lambda path: write_tiff(labels, path),
        "mine.precomputed": lambda out: write_precomputed(path, out, names=names),
        "mine": lambda out: write_cellsketch(out, "c", labels, labels, names, {}),
        "mine.csv": lambda out: label_instances(labels, 1, tmp_path / "i.ome.zarr", out),
        "mine.ome.zarr": lambda out: label_instances(labels, 1, out, tmp_path / "i.csv"),
    }
    for name, write in writers.items():
        for way in (tmp_path / name, tmp_path / f"partial.{name}"):
            for put in (lambda p: p.write_text("mine"), lambda p: p.mkdir(), lambda p: p.symlink_to("nowhere")):
                put(way)
                before = tree(tmp_path)
                with pytest.raises(UserError, match=f"{way.name}: in the way"):
                    write(tmp_path / name)
                assert tree(tmp_path) == before and os.path.lexists(way)
                way.rmdir() if way.is_dir() else way.unlink()
        write(tmp_path / name)
