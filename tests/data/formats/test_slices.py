"""Folders of PNG and JPEG slices."""

import numpy as np
import pytest
from PIL import Image

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (11, 16, 24)).astype(np.uint8)


def _save(folder, data, suffix=".png", convert=None, **options):
    folder.mkdir(exist_ok=True)
    for index, plane in enumerate(data):
        picture = Image.fromarray(plane)
        (picture.convert(convert) if convert else picture).save(folder / f"s{index}{suffix}", **options)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("image", [True, False])
def test_png(tmp_path, refusal, dtype, image):
    data = DATA.astype(dtype) * (1 if dtype == np.uint8 else 300)
    _save(tmp_path / "v", data)
    (tmp_path / "v" / "overview.jpg").write_bytes(b"")  # one of another kind is no matter
    (tmp_path / "v" / "notes.txt").write_text("notes")
    volume = open_volume(tmp_path / "v", (30, 4, 4), image=image)
    assert volume.dtype == dtype and volume.chunks == (1, 16, 24)
    np.testing.assert_array_equal(volume.read(ALL), data)  # slice 10 after slice 9
    np.testing.assert_array_equal(open_volume(f"{tmp_path}/v[2:5, :, 3:]", 8).read(ALL), data[2:5, :, 3:])
    assert "data.file_voxel_size_nm" in refusal(tmp_path / "v")


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG"])
def test_jpeg(tmp_path, refusal, suffix):
    smooth = np.broadcast_to(np.arange(0, 192, 8, dtype=np.uint8), DATA.shape)
    _save(tmp_path / "v", smooth, suffix, quality=100)
    assert np.abs(open_volume(tmp_path / "v", 8).read(ALL).astype(int) - smooth).max() <= 2
    assert "lossy" in refusal(tmp_path / "v", 8, image=False)
    _save(tmp_path / "rgb", smooth, suffix, "RGB", quality=100)
    assert np.abs(open_volume(tmp_path / "rgb", 8).read(ALL).astype(int) - smooth).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_levels_in_other_modes(tmp_path, mode):
    _save(tmp_path / "v", DATA, convert=mode)
    np.testing.assert_array_equal(open_volume(tmp_path / "v", 8).read(ALL), DATA)


def test_labels_with_a_palette_are_their_numbers(tmp_path, refusal):
    labels = DATA % 5
    (tmp_path / "v").mkdir()
    for index, plane in enumerate(labels):
        picture = Image.fromarray(plane)
        picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
        picture.save(tmp_path / "v" / f"{index}.png")
    np.testing.assert_array_equal(open_volume(tmp_path / "v", 8, image=False).read(ALL), labels)
    assert "holds colours" in refusal(tmp_path / "v", 8)
    _save(tmp_path / "mask", labels > 2, convert="1")
    np.testing.assert_array_equal(open_volume(tmp_path / "mask", 8, image=False).read(ALL), labels > 2)


def test_colours(tmp_path, refusal):
    colours = np.stack([DATA] * 3, -1)
    colours[4, 3, 2] = 1, 2, 3
    _save(tmp_path / "v", colours)
    volume = open_volume(tmp_path / "v", 8)
    with pytest.raises(UserError, match="s4.png: holds colours"):
        volume.read(ALL)
    np.testing.assert_array_equal(open_volume(f"{tmp_path}/v[c=2]", 8).read(ALL), colours[..., 2])
    with pytest.raises(UserError, match="no channel 3"):
        open_volume(f"{tmp_path}/v[c=3]", 8)


def test_damage(tmp_path, refusal):
    _save(tmp_path / "v", DATA)
    (tmp_path / "v" / "s4.png").rename(tmp_path / "s4.png")
    assert "without number 4" in refusal(tmp_path / "v", 8)
    content = (tmp_path / "s4.png").read_bytes()
    (tmp_path / "v" / "s4.png").write_bytes(content[: len(content) // 2])
    volume = open_volume(tmp_path / "v", 8)
    with pytest.raises(UserError, match="s4.png: unreadable picture"):
        volume.read(ALL)
    (tmp_path / "v" / "s4.png").write_bytes(b"no picture")
    assert "s4.png: unreadable picture" in refusal(tmp_path / "v", 8)
    Image.fromarray(DATA[0, :4]).save(tmp_path / "v" / "s4.png")
    assert "make all slices alike" in refusal(tmp_path / "v", 8)
    _save(tmp_path / "both", DATA)
    _save(tmp_path / "both", DATA, ".jpg")
    assert "11 PNG and 11 JPEG" in refusal(tmp_path / "both", 8)
