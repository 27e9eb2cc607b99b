"""MRC: voxel size in ångström, axis orders, byte orders, and damage."""

import numpy as np
import pytest
from absent import open_without

from his4mae_jax.data.volumes.volume import open_volume

mrcfile = pytest.importorskip("mrcfile")
ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(0, 120, (6, 7, 8))


def _write(path, dtype=np.int16, voxel_size=(50, 40, 300), order=None, data=DATA):
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data.astype(dtype))
        mrc.voxel_size = voxel_size  # x, y, z
        if order:
            mrc.header.mapc, mrc.header.mapr, mrc.header.maps = order
            mrc.update_header_stats()


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("suffix", [".mrc", ".rec"])
def test_mrc(tmp_path, dtype, suffix):
    path = tmp_path / f"v{suffix}"
    _write(path, dtype)
    volume = open_volume(path)
    np.testing.assert_allclose(volume.voxel_size_nm, (30, 4, 5))
    assert volume.dtype == dtype and volume.chunks == (1, 7, 8)
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    np.testing.assert_array_equal(open_volume(f"{path}[2:4, :, 3:]").read(ALL), DATA[2:4, :, 3:])


@pytest.mark.filterwarnings("ignore:Setting the dtype on a NumPy array:DeprecationWarning")  # by mrcfile.open below
def test_other_byte_order(tmp_path):
    path = tmp_path / "v.mrc"
    _write(path)
    with mrcfile.open(path) as mrc:
        header, data = mrc.header.copy(), mrc.data.copy()
    header.machst = [0x11, 0x11, 0, 0]
    path.write_bytes(header.byteswap().tobytes()[:212] + bytes([0x11, 0x11, 0, 0]) + header.byteswap().tobytes()[216:]
                     + data.byteswap().tobytes())  # fmt: skip
    content = bytearray(path.read_bytes())
    content[208:212] = b"MAP "
    path.write_bytes(content)
    volume = open_volume(path, 8)
    assert volume.dtype == np.int16
    np.testing.assert_array_equal(volume.read(ALL), DATA)


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint16])
def test_other_modes(tmp_path, dtype):
    _write(tmp_path / "v.mrc", dtype)
    volume = open_volume(tmp_path / "v.mrc")
    assert volume.dtype == {np.float16: np.float32, np.int8: np.uint8}.get(dtype, dtype)
    np.testing.assert_array_equal(volume.read(ALL), DATA)


@pytest.mark.parametrize("name", ["v.st", "v.ALI", "v.preali", "v", "v.img"])
def test_names_of_imod(tmp_path, name):
    _write(tmp_path / name)
    np.testing.assert_array_equal(open_volume(tmp_path / name).read(ALL), DATA)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"DA\0\0", b"DA", b"D\0\0\0", b"\x11\x11\0\0", b"DD\0\0", b"    "])
@pytest.mark.parametrize("magic", [b"MAP ", b"\0\0\0\0", b"    "])
def test_machine_stamps_of_older_writers(tmp_path, order, stamp, magic):
    """Where the stamp says nothing, or is wrong, mode and size of the file tell the byte order."""
    path = tmp_path / "v.mrc"
    _write(path)
    plain = path.read_bytes()
    header = np.frombuffer(plain[:1024], mrcfile.dtypes.HEADER_DTYPE)
    origin = header.copy()
    origin["origin"]["x"] = 70
    content = bytearray(origin.astype(header.dtype.newbyteorder(order)).tobytes())
    content[208:212], content[212 : 212 + len(stamp)] = magic, stamp
    path.write_bytes(content + DATA.astype(f"{order}i2").tobytes())
    volume = open_volume(path)
    np.testing.assert_allclose(volume.voxel_size_nm, (30, 4, 5))
    assert volume.dtype == np.int16 and volume.origin_nm[2] == pytest.approx(7 if magic == b"MAP " else 0)
    np.testing.assert_array_equal(volume.read(ALL), DATA)


def test_axis_order(tmp_path):
    """Columns are z, rows y, sections x: what is stored as (x, y, z) is read as (z, y, x)."""
    _write(tmp_path / "v.mrc", order=(3, 2, 1), data=DATA.T)
    np.testing.assert_array_equal(open_volume(tmp_path / "v.mrc", 8).read(ALL), DATA)


@pytest.mark.parametrize("unset", [(0, 0, 0), (1, 1, 1)])
def test_no_voxel_size(tmp_path, refusal, unset):
    _write(tmp_path / "v.mrc", voxel_size=unset)
    assert "data.file_voxel_size_nm" in refusal(tmp_path / "v.mrc")
    assert open_volume(tmp_path / "v.mrc", 8).voxel_size_nm == (8, 8, 8)


BYTES = np.random.default_rng(1).integers(0, 256, DATA.shape).astype(np.uint8)


def _write_bytes(path, stored, statistics=(0.0, 0.0), imod_flags=None):
    """Mode 0; `stored` as its bytes are on disk, with IMOD's stamp where there are flags."""
    _write(path, np.int8, data=stored.view(np.int8))
    with mrcfile.mmap(path, "r+") as mrc:
        mrc.header.dmin, mrc.header.dmax = statistics
    if imod_flags is not None:
        content = bytearray(path.read_bytes())
        content[152:160] = np.array([1146047817, imod_flags], "<i4").tobytes()
        path.write_bytes(content)


@pytest.mark.parametrize("image", [True, False])
def test_bytes_signed_or_not(tmp_path, refusal, image):
    """IMOD's flag decides, else the header's statistics, else that all values are below 128."""
    path = tmp_path / "v.mrc"

    def check(expected, dtype):
        volume = open_volume(path, image=image)
        assert volume.dtype == dtype
        np.testing.assert_array_equal(volume.read(ALL), expected)

    for flags in (0, 4, 16):  # other flags
        _write_bytes(path, BYTES, imod_flags=flags)
        check(BYTES, np.uint8)
    _write_bytes(path, BYTES ^ 128, imod_flags=1 | 4)  # 128 was taken from each
    check(BYTES, np.uint8)
    _write_bytes(path, BYTES, statistics=(0, 255))
    check(BYTES, np.uint8)
    signed = BYTES.view(np.int8)
    _write_bytes(path, signed, statistics=(-128, 127))
    check(signed, np.int16 if image else np.int8)
    _write_bytes(path, BYTES // 2)
    check(BYTES // 2, np.uint8)
    for statistics in ((0, 0), (0, -1)):  # none
        _write_bytes(path, BYTES, statistics=statistics)
        assert "signed or not" in refusal(path, image=image)


def test_bad_files(tmp_path, refusal):
    path = tmp_path / "v.mrc"
    _write(path, np.complex64)
    assert "complex64" in refusal(path, 8)
    _write(path)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert "unreadable MRC" in refusal(path, 8)
    path.write_bytes(content + bytes(7 * 8 * 2))
    assert "more than" in refusal(path, 8)
    content = bytearray(content)
    for mode in (3, 101, 9999):
        content[12:16] = np.int32(mode).tobytes()
        path.write_bytes(content)
        assert f"unreadable MRC (no grey levels or sizes that MRC has in its header: mode {mode})" in refusal(path, 8)
    path.write_bytes(content[:500])
    assert "unreadable MRC" in refusal(path, 8)
    path.write_bytes(b"no MRC at all" * 200)
    assert "unreadable MRC" in refusal(path, 8)


def test_without_mrcfile(tmp_path):
    _write(tmp_path / "v.mrc")
    last = open_without(["mrcfile"], tmp_path / "v.mrc")
    assert "UserError" in last and "pip install 'his4mae_jax[mrc]'" in last
