"""Pyramids: modes and means against a plain reference, scales that readers understand, stops in the middle."""

import collections
import json
import os
import shutil

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.ome_zarr.pyramid import build_pyramid, downsample, plan
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def plain_mode(block, ignore):
    counts = collections.Counter(block.ravel().tolist())
    if ignore in counts and 2 * counts[ignore] <= block.size:
        del counts[ignore]
    return min(counts, key=lambda v: (-counts[v], v))


shapes = hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)


@settings(deadline=None, max_examples=80)
@given(
    hnp.arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 2, 255])),
    st.tuples(*[st.sampled_from([1, 2])] * 3),
    st.sampled_from([None, 255]),
)
def test_labels_become_the_mode_of_their_block(labels, step, ignore):
    coarse = downsample(labels, step, labels=True, ignore=ignore)
    assert coarse.dtype == labels.dtype
    for at in np.ndindex(coarse.shape):
        block = labels[tuple(slice(i * s, (i + 1) * s) for i, s in zip(at, step, strict=True))]
        assert coarse[at] == plain_mode(block, ignore)
    assert coarse.shape == tuple(-(-n // s) for n, s in zip(labels.shape, step, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float16, np.float32])
def test_images_become_the_mean(dtype):
    image = (np.random.default_rng(0).random((2, 5, 4, 3)) * 100).astype(dtype)
    coarse = downsample(image, (1, 2, 2, 2), labels=False)
    block = image[1, 2:4, 2:4, 2:].astype(np.float64).mean()
    expected = np.rint(block) if np.dtype(dtype).kind in "iu" else block
    assert coarse.shape == (2, 3, 2, 2) and coarse.dtype == dtype
    np.testing.assert_allclose(coarse[1, 1, 1, 1], expected, rtol=1e-3)


def test_thick_sections_are_merged_last():
    assert plan((100, 4000, 4000), (30, 4, 4)) == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8), (2, 16, 16)]
    assert plan((300, 257, 10), (8, 8, 8)) == [(1, 1, 1), (2, 2, 2)]
    assert plan((256,) * 3, (8,) * 3) == [(1, 1, 1)]
    assert plan((4, 4, 1), (8,) * 3, levels=9)[-1] == (4, 4, 1)  # and no level twice
    assert len(plan((64,) * 3, (8,) * 3, levels=3)) == 3


@pytest.mark.filterwarnings("default")  # the packages' own deprecations are not ours
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_readers_find_all_levels_and_their_places(label_volume, patches, version):
    labels = patches((9, 33, 30))
    path = label_volume(labels, version=version)
    before = tree(path / "0")
    assert build_pyramid(path, levels=4, workers=2) == 4
    assert tree(path / "0") == before

    node = zarr.open_group(path, mode="r").attrs.asdict()
    node = node.get("ome", node)
    (image,) = node["multiscales"]
    transforms = [{t["type"]: t[t["type"]] for t in d["coordinateTransformations"]} for d in image["datasets"]]
    assert [t["scale"] for t in transforms] == [[30, 8, 4], [30, 8, 8], [30, 16, 16], [30, 32, 32]]
    assert [t.get("translation") for t in transforms] == [None, [0, 0, 2], [0, 4, 6], [0, 12, 14]]
    models = pytest.importorskip(f"ome_zarr_models.v{version.replace('.', '')}")
    models.Image.from_zarr(zarr.open_group(path, mode="r"))

    io, reader = pytest.importorskip("ome_zarr.io"), pytest.importorskip("ome_zarr.reader")
    data = next(iter(reader.Reader(io.parse_url(path))())).data
    assert [d.shape for d in data] == [(9, 33, 30), (9, 33, 15), (9, 17, 8), (9, 9, 4)]
    expected = downsample(labels, (1, 1, 2), labels=True, ignore=0)
    np.testing.assert_array_equal(np.asarray(data[1]), expected)
    np.testing.assert_array_equal(np.asarray(data[2]), downsample(expected, (1, 2, 2), labels=True, ignore=0))
    assert open_volume(path, image=False).shape == (9, 33, 30)


def test_chunks_and_threads_do_not_change_a_level(label_volume, patches, monkeypatch):
    monkeypatch.setattr("his4mae_jax.data.ome_zarr.fill.SIDE", 8)
    labels = patches((21, 40, 37), sigma=0.6)
    levels = []
    for i, chunks in enumerate([(4, 8, 8), (64, 64, 64)]):
        path = label_volume(labels, name=f"{i}.ome.zarr", size=8, chunks=chunks)
        build_pyramid(path, levels=3, workers=3 * i + 1)
        levels.append(zarr.open_array(path / "2")[:])
    np.testing.assert_array_equal(*levels)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ids_of_instances_know_no_ignore_and_probabilities_have_channels(tmp_path, version):
    ids = np.full((4, 4, 4), 255, np.uint32)
    ids[0, 0] = 7
    out = ome_zarr.create(tmp_path / "ids", ids.shape, np.uint32, 8, label_values={}, version=version)
    out.write(ids).result()
    build_pyramid(tmp_path / "ids", levels=2)
    assert zarr.open_array(tmp_path / "ids" / "1")[0, 0, 0] == 255

    chances = np.random.default_rng(0).random((3, 4, 6, 8)).astype(np.float16)
    out = ome_zarr.create(
        tmp_path / "p", chances.shape, np.float16, 8, channels=["a", "b", "c"], version=version, chunks=(4, 4, 4)
    )
    out.write(chances).result()
    build_pyramid(tmp_path / "p", levels=2)
    means = chances.astype(np.float32).reshape(3, 2, 2, 3, 2, 4, 2).mean(axis=(2, 4, 6))
    np.testing.assert_allclose(zarr.open_array(tmp_path / "p" / "1")[:], means, atol=1e-3)
    transforms = ome_zarr.read_group(tmp_path / "p")[1]["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert [t.get("scale") or t["translation"] for t in transforms] == [[1, 16, 16, 16], [0, 4, 4, 4]]


def test_again_and_after_a_stop_it_is_the_same(label_volume, patches, monkeypatch):
    path = label_volume(patches((17, 40, 30)), size=8)
    untouched = (path / ".zattrs").read_bytes()
    seen = []

    def stop(voxels):
        seen.append(voxels)
        if len(seen) > 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("his4mae_jax.data.ome_zarr.fill.SIDE", 8)
    with pytest.raises(KeyboardInterrupt):
        build_pyramid(path, levels=3, progress=stop)
    assert (path / ".zattrs").read_bytes() == untouched and not (path / "1").exists()  # no reader sees any of it
    build_pyramid(path, levels=3)
    whole = tree(path)
    assert not [name for name in whole if "partial" in name]

    shutil.rmtree(path / "2")  # as if stopped between the levels
    (path / ".zattrs").write_bytes(untouched)
    build_pyramid(path, levels=3)
    assert tree(path) == whole
    build_pyramid(path, levels=3, progress=lambda voxels: pytest.fail("wrote again what is there"))
    assert tree(path) == whole


def test_what_is_refused(tmp_path, label_volume, patches):
    with pytest.raises(UserError, match="nowhere"):
        build_pyramid(tmp_path / "nowhere")
    path = label_volume(patches((9, 30, 30)))
    chunk = next(p for p in (path / "0").rglob("*") if p.is_file() and p.name.isdigit())
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(UserError, match=r"labels.ome.zarr: cannot read"):
        build_pyramid(path, levels=2)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["datasets"][0]["path"] = "s0"
    (path / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(UserError, match="another program"):
        build_pyramid(path)


def test_a_full_disk_leaves_the_volume_as_it_was(small_disk):
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 48), np.uint8)
    out = ome_zarr.create(small_disk / "v", noise.shape, np.uint8, 8, chunks=(16, 16, 16))
    out.write(noise).result()
    before = (small_disk / "v" / ".zattrs").read_bytes()
    (small_disk / "fill").write_bytes(b"0" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    with pytest.raises(UserError, match="space"):
        build_pyramid(small_disk / "v", levels=2)
    assert (small_disk / "v" / ".zattrs").read_bytes() == before
