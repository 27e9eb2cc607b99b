"""Features kept on disk: the same labels as without, whatever the tiles; gone on with, replaced, never mistaken."""

import dataclasses
import json

import numpy as np
import pytest

from his4mae_jax.data.volumes.contrast import Contrast
from his4mae_jax.data.volumes.grid import Line, VoxelMap
from his4mae_jax.errors import UserError
from his4mae_jax.inference.kept_features import NAME, PARTIAL, feature_bytes, kept_features
from his4mae_jax.inference.score_maps import LinearScores
from his4mae_jax.inference.volume_encoder import VolumeEncoder

SHAPE = (24, 47, 53)
WHOLE = tuple(slice(0, n) for n in SHAPE)
HOW = dict(axes="zyx", smooth=0.7, stride=10)


def some_scores(dim=8):
    rng = np.random.default_rng(0)
    return {3: LinearScores(rng.normal(size=(3, dim)).astype(np.float32), np.zeros(3, np.float32))}


def keep(encoder, volume, folder, inside=WHOLE, digest="one", log=lambda line: None):
    return kept_features(encoder, volume, inside, folder, digest, log)


@pytest.fixture
def counted(monkeypatch):
    """The tiles that are encoded."""
    tiles, lattices = [], VolumeEncoder.lattices

    def counting(self, volume, tile, *rest):
        tiles.append(tile.number)
        return lattices(self, volume, tile, *rest)

    monkeypatch.setattr(VolumeEncoder, "lattices", counting)
    return tiles


FINER = VoxelMap((24, 94, 106), (Line(), Line(-0.25, 1 / 2), Line(-0.25, 1 / 2)))
PART = slice(2, 24), slice(0, 47), slice(9, 50)


@pytest.mark.parametrize(
    ("how", "inside", "onto"),
    [(dict(axes="z", shifts=2, smooth=0.5), WHOLE, FINER), (HOW, PART, None)],
    ids=["whole, shifts, another grid", "part, three axes"],
)
def test_labels_and_features_are_those_of_the_encoder(make_encoder, blobs, tmp_path, how, inside, onto):
    volume, encoder, scores = blobs(SHAPE), make_encoder(tile=25, **how), some_scores()
    kept = keep(encoder, volume, tmp_path, inside)
    tiling = make_encoder(tile=31, **how).coverage.label_tiles(SHAPE, 1, 3, inside=inside, onto=onto)
    assert len(tiling) > 1
    direct, again = (
        {tile.number: labels[3] for tile, labels, _ in encoder.label(volume, scores, tiling, encoded=encoded)}
        for encoded in (None, kept)
    )
    same = np.concatenate([(direct[n] == again[n]).ravel() for n in direct])
    assert same.mean() > 0.995  # but for the rounding of float16
    tile = encoder.coverage.feature_tiles(SHAPE, 31, inside=inside)[1]
    index = np.argwhere(np.ones(tile.shape, bool))[::97]
    np.testing.assert_allclose(
        encoder.features_at(volume, tile, index, kept), encoder.features_at(volume, tile, index), rtol=2e-2, atol=5e-3
    )
    stored = sum(array.dtype.numpy_dtype.itemsize * np.prod(array.shape) for array in kept.arrays)
    assert 0.8 < stored / feature_bytes(encoder, inside) < 2  # small volumes have more points at their border


def test_they_are_encoded_once_and_a_stopped_process_goes_on(make_encoder, blobs, tmp_path, counted, monkeypatch):
    volume, encoder, scores = blobs(SHAPE), make_encoder(tile=25, **HOW), some_scores()
    expected = encoder.labels(volume, scores)[3]
    real = VolumeEncoder.lattices

    def stopped(self, volume, tile, *rest):
        if tile.number == 2:
            raise KeyboardInterrupt
        return real(self, volume, tile, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(VolumeEncoder, "lattices", stopped)
        with pytest.raises(KeyboardInterrupt):
            keep(encoder, volume, tmp_path)
    assert not (tmp_path / NAME).exists() and counted == [0, 1]
    lines = []
    keep(encoder, volume, tmp_path, log=lines.append)
    assert counted[:3] == [0, 1, 2] and len(counted) == len(set(counted)) and "going on; 2 of" in lines[0]
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    counted.clear()
    kept = keep(encoder, volume, tmp_path)
    labels = encoder.labels(volume, scores, encoded=kept)[3]
    assert not counted and (labels == expected).mean() > 0.995


@pytest.mark.parametrize("change", ["encoder", "contrast", "stride", "volume", "smooth"])
def test_only_features_of_the_same_inputs_are_used(make_encoder, blobs, tmp_path, counted, change):
    volume, how, digest = blobs(SHAPE), dict(HOW), "one"
    keep(make_encoder(**how), volume, tmp_path)
    counted.clear()
    how.update({"stride": dict(stride=20), "smooth": dict(smooth=1.2)}.get(change, {}))
    encoder = make_encoder(**how)
    if change == "contrast":
        encoder = dataclasses.replace(encoder, contrast=Contrast(10, 200))
    if change == "volume":
        volume = blobs(SHAPE, seed=1)
        volume.name = "another"
    keep(encoder, volume, tmp_path, digest="two" if change == "encoder" else digest)
    assert bool(counted) == (change != "smooth")  # which comes after them
    facts = json.loads((tmp_path / NAME / "zarr.json").read_text())["attributes"]["his4mae_jax_features"]["of"]
    assert facts["coverage"]["stride"] == how["stride"] and facts["volume"] == volume.name


@pytest.mark.parametrize("name", [NAME, PARTIAL])
def test_what_is_not_ours_is_not_replaced(make_encoder, blobs, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=f"{name}: in the way, and not features that this program kept"):
        keep(make_encoder(**HOW), blobs(SHAPE), tmp_path)
    assert (tmp_path / name / "mine.txt").read_text() == "mine"
