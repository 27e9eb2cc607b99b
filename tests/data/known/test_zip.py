"""Archives of others: members do not leave the folder, and what does not fit the disk is not unpacked."""

import io
import zipfile

import numpy as np
import pytest
import tifffile

from his4mae_jax.data.known import betaseg
from his4mae_jax.errors import UserError


def archive(path, names, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in names:
            zipped.writestr(name, content)
    return zipfile.ZipFile(path)


def tiff(shape):
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.ones(shape, np.uint8), photometric="minisblack")
    return stream.getvalue()


def test_a_member_does_not_leave_the_folder(tmp_path):
    root = tmp_path / "a" / "b"
    with archive(tmp_path / "x.zip", ["../../../high_c1/high_c1_source.tif"], tiff((5, 6, 7))) as zipped:
        betaseg._unpack(zipped, root, "high_c1", "source", print)
    assert {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")} == {"x.zip", "a"}
    assert [p.name for p in (root / "high_c1").iterdir()] == ["high_c1_source.ome.zarr"]


def test_a_bomb_is_told_before_it_is_unpacked(tmp_path, monkeypatch):
    with archive(tmp_path / "x.zip", ["high_c1/high_c1_source.tif"], bytes(50_000_000)) as zipped:
        assert (tmp_path / "x.zip").stat().st_size < 100_000
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 60_000_000}))
        with pytest.raises(UserError, match=r"unpacking high_c1_source.tif needs 0.10 GB and 0.06 GB are free"):
            betaseg._unpack(zipped, tmp_path, "high_c1", "source", print)
    assert not list(tmp_path.rglob("*.tif"))


def test_a_member_that_is_longer_than_it_says_is_not_unpacked(tmp_path):
    archive(tmp_path / "x.zip", ["high_c1/high_c1_source.tif"], bytes(1_000_000)).close()
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace((1_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with zipfile.ZipFile(tmp_path / "x.zip") as zipped, pytest.raises(zipfile.BadZipFile):
        betaseg._unpack(zipped, tmp_path, "high_c1", "source", print)
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.tif")) <= 1000
