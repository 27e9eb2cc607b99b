"""The library: arrays and paths, the same labels as the command, errors of one family."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import his4mae_jax
from his4mae_jax.config import get_small
from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.output.segment import segment as segment_stage

EVERYTHING = np.s_[:, :, :]


def quiet(line):
    """A log that prints nothing."""


def test_importing_the_package_does_not_import_jax():
    code = (
        "import sys, his4mae_jax; assert {'open', 'train', 'Encoder', 'evaluate', 'Error'} <= set(dir(his4mae_jax)); "
        "slow = {'jax', 'numpy', 'tensorstore'} & set(sys.modules); assert not slow, slow; "
        "assert his4mae_jax.Error; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        his4mae_jax.opne  # noqa: B018


def test_a_volume_is_opened_without_reading(path, image):
    volume = his4mae_jax.open(path)
    assert volume.shape == image.shape and volume.voxel_size_nm == (8.0, 8.0, 8.0)
    assert np.array_equal(volume.read(np.s_[3:5, :, 7:9]), image[3:5, :, 7:9])
    assert his4mae_jax.open(path, voxel_size_nm=(8, 4, 4)).voxel_size_nm == (8.0, 4.0, 4.0)


def test_arrays_train_the_encoder_that_paths_train(encoder, from_array, path, image):
    assert from_array.digest == encoder.digest and from_array.voxel_size_nm == 8
    tokens = encoder.encode(path)
    assert np.array_equal(tokens.features, from_array.encode(image).features)
    assert tokens.features.shape == (*map(len, tokens.positions), 8) and tokens.features.dtype == np.float32
    assert tokens.voxel_size_nm == (8.0, 8.0, 8.0)
    for positions, n in zip(tokens.positions, image.shape, strict=True):
        assert np.all(np.diff(positions) > 0) and positions[0] >= 0 and n - 5 <= positions[-1] < n + 5


def test_labels_are_those_that_the_command_writes(encoder, path, image, tmp_path):
    config = encoder.config
    assert config.data.train == (str(path),) and config.data.test == str(path)
    target = datasets.target(config, encoder.workdir, need_labels=False)
    segment_stage(config, target, encoder.workdir, quiet)
    expected = open_volume(encoder.workdir / "labels.ome.zarr", image=False).read(EVERYTHING)
    assert len(np.unique(expected)) == 3

    result = encoder.segment(path, log=quiet)
    assert result.labels.shape == image.shape and result.centres.clusters == 3
    assert np.array_equal(result.labels.read(np.s_[5:20, 30:, :11]), expected[5:20, 30:, :11])
    assert np.array_equal(result.labels.read(EVERYTHING), expected)
    assert np.array_equal(encoder.segment(image, log=quiet).labels, expected)
    assert np.array_equal(encoder.segment(his4mae_jax.open(path), log=quiet).labels.read(EVERYTHING), expected)

    written = result.labels.write(tmp_path / "mine.ome.zarr", log=quiet)
    assert np.array_equal(written.read(EVERYTHING), expected)
    files = [
        sorted(p.name for p in f.iterdir()) for f in (tmp_path / "mine.ome.zarr", encoder.workdir / "labels.ome.zarr")
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["mine.ome.zarr"] and files[0] == files[1]
    with pytest.raises(his4mae_jax.Error, match="mine.ome.zarr: exists already"):
        result.labels.write(tmp_path / "mine.ome.zarr")
    centres = encoder.workdir / "centres.npz"
    assert np.array_equal(encoder.segment(image, centres=centres, log=quiet).labels, expected)


def test_labels_lie_where_their_volume_lies(encoder, path, tmp_path):
    labels = encoder.segment(f"{path}[2:, 16:, :]", log=quiet).labels
    assert labels.origin_nm == tuple(8.0 * n for n in (2, 16, 0))
    assert labels.write(tmp_path / "part.ome.zarr", log=quiet).origin_nm == labels.origin_nm


def test_centres_segment_further_volumes(encoder, image, tmp_path):
    first = encoder.segment(image, clusters=4, log=quiet)
    again = encoder.segment(image, centres=first.centres, log=quiet)
    assert np.array_equal(first.labels, again.labels) and again.centres is first.centres
    first.centres.save(tmp_path / "centres.npz")
    loaded = encoder.segment(image, centres=tmp_path / "centres.npz", log=quiet)
    assert loaded.centres.clusters == 4 and np.array_equal(first.labels, loaded.labels)
    # Of another part of the volume a fit of its own gives other centres.
    part = image[:, 10:]
    own, shared = (encoder.segment(part, clusters=4, centres=c, log=quiet) for c in (None, first.centres))
    centre = lambda s: s.centres.centres.centres_CxM  # noqa: E731
    assert not np.array_equal(centre(own), centre(first)) and np.array_equal(centre(shared), centre(first))
    with pytest.raises(his4mae_jax.Error, match="there are 4 centres"):
        encoder.segment(image, clusters=3, centres=first.centres)
    teacher = his4mae_jax.Encoder.load(encoder.workdir, which="teacher")
    with pytest.raises(his4mae_jax.Error, match="another encoder"):
        teacher.segment(image, centres=first.centres)


def test_settings_of_one_segmentation(encoder, image):
    whitened = encoder.segment(image, seed=3, metric="whitened", axes="z", log=quiet)
    assert whitened.centres.centres.projection_DxM.shape == (8, 3)
    assert encoder.segment(image, stride=20, log=quiet).labels.shape == image.shape
    assert encoder.config.segment.stride == 10
    config = encoder.config.copy_and_resolve_references()
    config.segment.centres = "codebook"
    codes = dataclasses.replace(encoder, config=config).segment(image, log=quiet)
    assert codes.centres.centres.centres_CxM.shape == (6, 8) and set(np.unique(codes.labels)) <= {1, 2, 3}
    with pytest.raises(his4mae_jax.Error, match="no setting strid .*did you mean stride"):
        encoder.segment(image, strid=4)
    with pytest.raises(his4mae_jax.Error, match="segment.stride is 7"):
        encoder.segment(image, stride=7)


def test_a_training_goes_on_and_belongs_to_its_volumes(encoder, from_array, image):
    lines = []
    again = his4mae_jax.train(image, from_array.config, workdir=from_array.workdir, voxel_size_nm=8, log=lines.append)
    assert again.digest == from_array.digest and any("all 2 steps are done" in line for line in lines)
    with pytest.raises(his4mae_jax.Error, match="data.train was .*array 0 .*another workdir"):
        his4mae_jax.train(image[1:], from_array.config, workdir=from_array.workdir, voxel_size_nm=8)
    with pytest.raises(his4mae_jax.Error, match="data.file_voxel_size_nm was"):
        his4mae_jax.train(image, from_array.config, workdir=from_array.workdir, voxel_size_nm=16)


def test_the_command_refuses_to_segment_an_array(from_array):
    saved = json.loads((from_array.workdir / "config.json").read_text())
    assert saved["data"]["train"][0].startswith("array 0 (24x56x50 uint8, ") and not saved["data"]["test"]
    with pytest.raises(his4mae_jax.Error, match="data.test is empty: give the volume to segment"):
        datasets.target(his4mae_jax.Encoder.load(from_array.workdir).config, "", need_labels=False)


def test_configs_by_name_and_several_volumes(path, image, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr("his4mae_jax.library.training.loop.train", lambda *args: trained.append(args))
    monkeypatch.setattr("his4mae_jax.library.training.Encoder.load", lambda workdir: workdir)
    volumes = [path, his4mae_jax.open(path), image]
    his4mae_jax.train(volumes, "demo", workdir=tmp_path, voxel_size_nm=8, log=quiet)
    his4mae_jax.train(path, workdir=tmp_path / "small", log=quiet)
    his4mae_jax.train(his4mae_jax.open(path, 4), workdir=tmp_path / "open", log=quiet)
    (config, images, _, _), (small, _, _, _), (opened, (volume,), _, _) = trained
    assert config.train.steps == 16_000 and config.data.source == "files"
    assert [v.voxel_size_nm for v in images] == [(8.0,) * 3] * 3 and np.array_equal(images[2].read(EVERYTHING), image)
    assert small.model == get_small().model and small.data.train == (str(path),) and small.data.test == str(path)
    assert opened.data.file_voxel_size_nm == volume.voxel_size_nm == (4.0, 4.0, 4.0)


def refused(action, *words):
    with pytest.raises(his4mae_jax.Error) as caught:
        action()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert not any(flag in message for flag in ("--config", "--mode", "--workdir", "\n")), message


def test_errors_are_one_family_without_flags(encoder, path, image, tmp_path):
    train = his4mae_jax.train
    refused(lambda: his4mae_jax.open(tmp_path / "none.tif"), "none.tif")
    refused(lambda: train(path, "dmeo", workdir=tmp_path / "a"), "dmeo", "did you mean demo?")
    refused(lambda: train([], workdir=tmp_path / "a"), "volumes is empty")
    refused(lambda: train(image, workdir=tmp_path / "a"), "voxel_size_nm")
    refused(lambda: train(image[0], workdir=tmp_path / "a", voxel_size_nm=8), "(56, 50)", "3D")
    refused(lambda: train(image.astype(complex), workdir=tmp_path / "a", voxel_size_nm=8), "complex128", "float32")
    refused(lambda: train(image, workdir=tmp_path / "a", voxel_size_nm=-8), "voxel size -8")
    refused(lambda: train(his4mae_jax.open(path), workdir=tmp_path / "a", voxel_size_nm=8), "leave voxel_size_nm out")
    refused(lambda: train(image, workdir=tmp_path / "a", voxel_size_nm=(8, 80, 80)), "coarse along two axes")
    refused(lambda: train([path, his4mae_jax.open(path, 16)], workdir=tmp_path / "a"), "16 x 16 x 16 nm")
    config = get_small()
    config.train.lr = -1.0
    refused(lambda: train(path, config, workdir=tmp_path / "a"), "train.lr is -1.0")
    config = get_small()
    config.method = "segmenter"
    refused(lambda: train(path, config, workdir=tmp_path / "a"), "method is 'segmenter'", "labels")
    assert not (tmp_path / "a").exists()
    load = his4mae_jax.Encoder.load
    refused(lambda: load(tmp_path), "no checkpoint")
    refused(lambda: load(encoder.workdir, step=7), "step 7", "there are")
    refused(lambda: load(encoder.workdir, which="pupil"), "'pupil'")
    refused(lambda: encoder.segment(image, clusters=1), "segment.clusters is 1")
    refused(lambda: encoder.segment(image[:, :10]), "smaller than the field of view of 20")
    refused(lambda: encoder.encode(image, voxel_size_nm=16), "trained at 8 nm")
    refused(lambda: encoder.segment(image, centres=tmp_path / "none.npz"), "none.npz")
    refused(lambda: encoder.segment(image, centres=3), "centres")


def test_a_device_without_memory_is_the_same_family(encoder, image, monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr("his4mae_jax.library.encoder.fit_centres", full)
    refused(lambda: encoder.segment(image, log=quiet), "memory is too small", "segment.tile")


def test_dice_of_arrays_and_volumes(path):
    truth = np.zeros((4, 6, 6), np.uint8)
    truth[:, :3] = 1
    truth[:, 5] = 255  # not scored
    labels = np.where(truth == 1, 3, 1).astype(np.uint16)
    labels[0, 0] = 1
    scores = his4mae_jax.evaluate.dice(labels, truth, ["cytoplasm", "nucleus"])
    expected = {"cytoplasm": 2 * 48 / (48 + 54), "nucleus": 2 * 66 / (66 + 72)}
    assert scores.dsc == pytest.approx({**expected, "mean": sum(expected.values()) / 2})
    assert scores.assignment == [0, None, 1]
    assert his4mae_jax.evaluate.dice(1 + truth, truth).dsc["mean"] == 1.0
    assert list(his4mae_jax.evaluate.dice(labels, truth).dsc) == ["0", "1", "mean"]
    refused(lambda: his4mae_jax.evaluate.dice(labels[1:], truth), "(3, 6, 6)")
    refused(lambda: his4mae_jax.evaluate.dice(labels / 2, truth), "labels", "float")
    refused(lambda: his4mae_jax.evaluate.dice(labels, truth, ["cytoplasm"]), "truth", "1", "class_names")
    refused(lambda: his4mae_jax.evaluate.dice(labels + 300, truth), "labels", "0 to 254")
