"""A cube at a known physical place lies there in every file that a segmentation writes, read by other readers."""

import contextlib
import csv
import json
import types

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr

from his4mae_jax.clustering import centres
from his4mae_jax.data import datasets
from his4mae_jax.data.ome_zarr import pyramid
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.volumes.anisotropy import in_plane_nm
from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.inference.coverage import Coverage
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.volume_encoder import VolumeEncoder
from his4mae_jax.output import opening, segment
from his4mae_jax.output.neuroglancer import write_precomputed

CUBE = 2  # label of the cube: 1 is around it


class Grey:
    """A stub of an encoder: patches are pixels, and the feature of a pixel is its grey value."""

    grid, embed_dim = (8, 8), 1

    def apply(self, variables, patches_BxNxP):
        return patches_BxNxP


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """Function that segments a volume by its grey values with the real stage; returns the workdir."""

    def run(spec, target_nm, version="0.4", grid="model", axes="z", inference="expand"):
        c = tiny
        c.data.source, c.data.test, c.data.voxel_size_nm = "files", str(spec), target_nm
        c.segment.clusters, c.evaluate.clusters, c.segment.grid = 2, (), grid
        c.segment.outputs, c.segment.instances = ("tiff", "precomputed", "cellsketch"), (CUBE,)
        c.segment.ome_zarr_version, c.segment.block, c.segment.axes = version, (8, 16, 16), axes
        target = datasets.target(c, tmp_path, need_labels=False)
        models = types.SimpleNamespace(encoder=Grey(), patch_size=1)
        coverage = Coverage.of_models(models, axes=axes, stride=8, tile=40, inference=inference)
        encoder = VolumeEncoder(models, {}, Contrast(0, 255), coverage, batch_fovs=512)
        trained = types.SimpleNamespace(
            voxel_size_nm=in_plane_nm(target.image), step=1, bind=lambda *args, **kwargs: encoder
        )
        (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(segment, "checkpoints_of", lambda *args: contextlib.nullcontext())
        monkeypatch.setattr(opening, "open_encoder", lambda *args: trained)
        darker = LinearScores(np.float32([[1], [-1]]), np.float32([0, 2 * 140 / 255]))  # the cube: 140 of 255 and more
        unused = {2: centres.Centres(np.zeros((2, 1), np.float32), np.ones((1, 1), np.float32))}

        def fit(task, folder):
            centres.save(folder / "centres.npz", unused)
            return opening.Fit(unused)

        monkeypatch.setattr(opening, "fit", fit)
        monkeypatch.setattr(opening.centre_files, "linear_scores", lambda centres: {2: darker})
        monkeypatch.setattr(pyramid, "SMALLEST", 20)
        segment.segment(c, target, tmp_path / "run", lambda line: None)
        return tmp_path / "run"

    return run


def marked_image(path, cube, size, origin, shape=(104, 104, 104)):
    """Writes noise with a bright cube; returns the lower and upper faces of the cube in nm, (2, 3)."""
    data = np.random.default_rng(0).integers(62, 68, shape, np.uint8)
    data[tuple(slice(*side) for side in cube)] += 150
    ome_zarr.create(path, shape, np.uint8, size, origin_nm=origin).write(data).result()
    return np.array(origin) + (np.array(cube).T - 0.5) * size


def box_of(mask):
    """Indices of the first voxel and behind the last voxel of a mask, (2, 3)."""
    at = np.argwhere(mask)
    return np.stack([at.min(axis=0), at.max(axis=0) + 1])


def levels_by_hand(path):
    """(scale, translation, array) of each level of an OME-Zarr volume, from its JSON."""
    if (path / "zarr.json").exists():
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]
    else:
        attributes = json.loads((path / ".zattrs").read_text())
    for dataset in attributes["multiscales"][0]["datasets"]:
        transforms = {t["type"]: np.array(t[t["type"]]) for t in dataset["coordinateTransformations"]}
        yield (
            transforms["scale"],
            transforms.get("translation", np.zeros(3)),
            zarr.open_array(path / dataset["path"])[:],
        )


def scales_by_tensorstore(path):
    """(resolution, voxel offset, array) in z, y, x of each scale of a precomputed volume."""
    for index, scale in enumerate(json.loads((path / "info").read_text())["scales"]):
        spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{path}/", "scale_index": index}
        array = ts.open(spec, open=True).result()[..., 0]
        yield np.array(scale["resolution"])[::-1], np.array(array.domain.origin)[::-1], array.read().result().T


def faces_in_tiff(path, label):
    """Faces of a label in nm, as ImageJ calibrates its coordinates."""
    with tifffile.TiffFile(path) as tif:
        about, page = tif.imagej_metadata, tif.pages[0]
        assert about["unit"] == "micron"
        y, x = ((lambda a, b: b / a)(*page.tags[f"{axis}Resolution"].value) for axis in "YX")
        size = np.array([about["spacing"], y, x]) * 1e3
        origin = np.array([about.get(f"{axis}origin", 0) for axis in "zyx"])
        return (box_of(tif.asarray() == label) - 0.5 - origin) * size


CASES = {
    "plain": dict(size=4, origin=(0, 0, 0), crop=None, target=0, cube=((40, 56), (32, 48), (24, 64))),
    "crop": dict(size=4, origin=(0, 0, 0), crop=(8, 16, 12), target=0, cube=((40, 56), (32, 48), (40, 64))),
    "translation": dict(size=4, origin=(1001, -37.3, 6), crop=None, target=0, cube=((40, 56), (32, 48), (24, 64))),
    "16 nm over 4 nm": dict(size=4, origin=(0, 0, 0), crop=None, target=16, cube=((32, 64), (32, 64), (48, 80))),
    "all at once": dict(size=4, origin=(1001, -37.3, 6), crop=(4, 8, 12), target=8,
                        cube=((36, 68), (40, 56), (44, 76))),
    "anisotropic": dict(size=(12, 4, 4), origin=(55, -900.5, 7), crop=(3, 4, 5), target=0,
                        cube=((35, 51), (36, 52), (37, 53))),
}  # fmt: skip


@pytest.mark.filterwarnings("default")  # the validators' own deprecations are not ours
@pytest.mark.parametrize("name, version", [*((name, "0.4") for name in CASES), ("all at once", "0.5")])
def test_labels_lie_on_what_they_label(tmp_path, run, name, version):
    case = CASES[name]
    size, target, crop = np.broadcast_to(case["size"], 3).astype(float), case["target"], case["crop"] or (0, 0, 0)
    faces = marked_image(tmp_path / "cell.zarr", case["cube"], size, case["origin"])
    stop = [start + 88 for start in crop]
    box = ", ".join(f"{a}:{b}" for a, b in zip(crop, stop, strict=True))
    workdir = run(f"{tmp_path / 'cell.zarr'}" + (f"[{box}]" if case["crop"] else ""), target, version)
    used = np.full(3, float(target)) if target else size
    first = np.array(case["origin"]) + np.array(crop) * size + (used - size) / 2

    models = pytest.importorskip(f"ome_zarr_models.v{version.replace('.', '')}")
    for name, label in (("labels", CUBE), (f"instances_cluster{CUBE}", 1)):
        levels = list(levels_by_hand(workdir / f"{name}.ome.zarr"))
        models.Image.from_zarr(zarr.open_group(workdir / f"{name}.ome.zarr", mode="r"))
        np.testing.assert_allclose(levels[0][1], first)
        assert len(levels) > 1
        exact = 2 if case["crop"] is None else 1  # levels in which faces of the cube are faces of voxels
        for index, (scale, translation, array) in enumerate(levels[:2]):
            off = np.abs((box_of(array == label) - 0.5) * scale + translation - faces) / scale
            assert off.max() <= (1e-6 if index < exact else 0.5 + 1e-6)
        scales = list(scales_by_tensorstore(workdir / f"{name}.precomputed"))
        assert len(scales) == len(levels)
        for resolution, offset, array in scales[:2]:
            off = np.abs((box_of(array == label) + offset) * resolution - faces) / resolution
            assert off.max() <= 0.5 + 1e-6
    np.testing.assert_allclose(faces_in_tiff(workdir / "labels.tif", CUBE), faces, atol=1e-3 * used.max())
    cellsketch = workdir / "cellsketch"
    np.testing.assert_allclose(faces_in_tiff(cellsketch / f"cell_cluster{CUBE}_mask.tif", 255), faces, atol=0.05)
    np.testing.assert_allclose(faces_in_tiff(cellsketch / f"cell_cluster{CUBE}_labels.tif", 1), faces, atol=0.05)

    (row,) = csv.DictReader((workdir / f"instances_cluster{CUBE}.csv").read_text().splitlines())
    box = [[float(row[f"{axis}_{end}_nm"]) for axis in "zyx"] for end in ("start", "stop")]
    np.testing.assert_allclose(box, faces)
    np.testing.assert_allclose([float(row[f"{axis}_nm"]) for axis in "zyx"], faces.mean(axis=0), atol=0.1)


ON_THE_IMAGE = {
    "16 nm over 4 nm": dict(size=4, target=16, crop=None, cube=((32, 64), (32, 64), (48, 80))),
    "a shape that does not divide": dict(size=4, target=12, crop=((0, 87), (9, 95), (3, 91)),
                                         cube=((36, 60), (33, 69), (39, 63))),
    "upsampled": dict(size=16, target=8, crop=None, cube=((40, 56), (32, 48), (24, 64))),
    "at a pyramid level": dict(size=4, target=8, crop=((4, 92), (8, 96), (12, 100)), levels=3,
                               cube=((36, 68), (40, 56), (44, 76))),
    "anisotropic": dict(size=(12, 4, 4), target=8, crop=None, cube=((35, 51), (36, 52), (38, 54))),
    "axes": dict(size=4, target=8, crop=None, cube=((36, 68), (40, 56), (44, 76)), axes="zyx"),
    "cover-stride": dict(size=4, target=12, crop=None, cube=((36, 60), (36, 60), (36, 60)), inference="cover"),
}  # fmt: skip


FEW = ("a shape that does not divide", "at a pyramid level", "axes", "anisotropic")  # the others are slow, or alike


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=() if name in FEW else pytest.mark.slow) for name, case in ON_THE_IMAGE.items()],
)
def test_labels_on_the_grid_of_the_image_have_its_shape_and_lie_on_what_they_label(tmp_path, run, case):
    size, origin = np.broadcast_to(case["size"], 3).astype(float), np.array([1001, -37.3, 6])
    faces = marked_image(tmp_path / "cell.zarr", case["cube"], size, origin)
    if "levels" in case:
        pyramid.build_pyramid(tmp_path / "cell.zarr", levels=2)
    crop = case["crop"] or [(0, 104)] * 3
    box = ", ".join(f"{a}:{b}" for a, b in crop)
    extra = {key: case[key] for key in ("axes", "inference") if key in case}
    workdir = run(f"{tmp_path / 'cell.zarr'}[{box}]", case["target"], grid="image", **extra)
    scale, translation, array = next(levels_by_hand(workdir / "labels.ome.zarr"))
    assert array.shape == tuple(b - a for a, b in crop) and (array > 0).all()
    np.testing.assert_allclose(scale, size)
    np.testing.assert_allclose(translation, origin + [a * s for (a, _), s in zip(crop, size, strict=True)])
    off = np.abs((box_of(array == CUBE) - 0.5) * scale + translation - faces) / scale
    assert off.max() <= 0.5 + 1e-6
    resolution, offset, voxels = next(scales_by_tensorstore(workdir / "labels.precomputed"))
    assert np.array_equal(voxels, array)
    assert np.abs((box_of(voxels == CUBE) + offset) * resolution - faces).max() <= (1 + 1e-6) * size.max()
    np.testing.assert_allclose(faces_in_tiff(workdir / "labels.tif", CUBE), faces, atol=0.51 * size.max())
    with tifffile.TiffFile(workdir / "cellsketch" / "cell.tif") as tif:
        assert tif.series[0].shape == array.shape  # the image beside its masks, on the same voxels


def test_labels_on_another_grid_are_written_again_and_those_on_the_same_are_kept(tmp_path, run):
    marked_image(tmp_path / "cell.zarr", ON_THE_IMAGE["axes"]["cube"], 4.0, (0, 0, 0))
    shapes, jobs = [], []
    for grid in ("image", "image", "model"):
        workdir = run(tmp_path / "cell.zarr", 8, grid=grid)
        shapes.append(next(levels_by_hand(workdir / "labels.ome.zarr"))[2].shape)
        jobs.append(json.loads((workdir / "segment.json").read_text())["job"])
    assert shapes == [(104,) * 3, (104,) * 3, (52,) * 3]
    assert jobs[0] == jobs[1] != jobs[2]


def test_a_result_at_16_nm_over_an_image_at_4_nm_begins_at_6_nm(tmp_path, run):
    marked_image(tmp_path / "cell.zarr", CASES["16 nm over 4 nm"]["cube"], 4.0, (0, 0, 0))
    workdir = run(tmp_path / "cell.zarr", 16)
    places = [translation.tolist() for _, translation, _ in levels_by_hand(workdir / "labels.ome.zarr")]
    assert places[:2] == [[6, 6, 6], [14, 14, 14]]


def test_labels_that_move_are_written_again(tmp_path, run, monkeypatch):
    """A record of labels at another place is no record of these."""
    marked_image(tmp_path / "cell.zarr", CASES["plain"]["cube"], 4.0, (0, 0, 0))
    workdir = run(tmp_path / "cell.zarr", 0)
    attributes = json.loads((tmp_path / "cell.zarr" / ".zattrs").read_text())
    transforms = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    transforms.append({"type": "translation", "translation": [40, 0, 0]})
    (tmp_path / "cell.zarr" / ".zattrs").write_text(json.dumps(attributes))
    run(tmp_path / "cell.zarr", 0)
    assert next(levels_by_hand(workdir / "labels.ome.zarr"))[1].tolist() == [40, 0, 0]


@pytest.mark.parametrize(
    "origin, offset, exact",
    [
        ((0.0, 0.0, 0.0), [0, 0, 0], True),  # half a voxel off, as always without a position: nothing is said
        ((6.0, 2.0, -2.0), [1, 0, -1], True),
        ((4.0, 8.0, 400.0), [1, 2, 100], False),
        ((5.9, 2.1, -5.9), [1, 0, -2], False),
    ],
)
def test_what_voxel_offset_cannot_hold_stands_in_the_info(tmp_path, origin, offset, exact):
    path = tmp_path / "labels.ome.zarr"
    ome_zarr.create(path, (4, 4, 4), np.uint8, 4.0, origin_nm=origin, label_values={1: "a"}).write(1).result()
    write_precomputed(path, tmp_path / "seg", names={1: "a"})
    info = json.loads((tmp_path / "seg" / "info").read_text())
    assert info["scales"][0]["voxel_offset"][::-1] == offset
    assert info.get("origin_nm") == (None if exact else list(origin)[::-1])
    (scale,) = scales_by_tensorstore(tmp_path / "seg")
    assert scale[1].tolist() == offset and (scale[2] == 1).all()
