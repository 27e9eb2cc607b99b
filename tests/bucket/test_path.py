"""Paths in a bucket behave as those on a disk; what fails is told; a lost answer is no failure."""

import errno
import os
import pathlib
import sys

import numpy as np
import pytest

from his4mae_jax.bucket import access, probe, transfer
from his4mae_jax.bucket.path import BucketPath, is_bucket, place
from his4mae_jax.data.ome_zarr.write import create_array
from his4mae_jax.errors import UserError
from his4mae_jax.files import friendly_io_error, writing


def test_objects_and_folders(folder):
    assert not folder.exists() and not list(folder.iterdir()) and folder.keys() == []
    (folder / "a" / "b.txt").write_text("ä\r\n")
    (folder / "c.json").write_bytes(b"{}")
    assert folder.exists() and folder.is_dir() and not folder.is_file() and not (folder / "a.x").exists()
    assert (folder / "a").is_dir() and (folder / "c.json").is_file() and not (folder / "c").exists()
    assert [p.name for p in folder.iterdir()] == ["a", "c.json"] and folder.keys() == ["a/b.txt", "c.json"]
    assert [p.name for p in folder.glob("*.json")] == ["c.json"] and list(folder.glob("*/b.txt")) == [
        folder / "a/b.txt"
    ]
    assert list(folder.glob("a")) == [folder / "a"] and not list(folder.glob("d"))
    assert (folder / "a" / "b.txt").read_bytes() == "ä\r\n".encode() and (folder / "c.json").stat().st_size == 2
    assert abs((folder / "c.json").stat().st_mtime_ns / 1e9 - os.stat(__file__).st_mtime) < 1e10
    with (folder / "d.csv").open("w", newline="") as file:
        file.write("1,2\n")
    with (folder / "d.csv").open() as file:
        assert list(file) == ["1,2\n"]
    with pytest.raises(ZeroDivisionError), (folder / "e").open("w") as file:
        file.write(str(1 / 0))
    assert not (folder / "e").exists()
    (folder / "d.csv").unlink()
    (folder / "d.csv").unlink(missing_ok=True)
    for missing in ((folder / "d.csv").read_bytes, (folder / "d.csv").stat):
        with pytest.raises(FileNotFoundError):
            missing()


def test_names(clean):
    path = place("gs://cells/runs/a.b/")
    assert str(path / "c" / "d.txt") == "gs://cells/runs/a.b/c/d.txt" and place(path) is path
    assert (path.name, path.stem, path.suffix, path.parent.name) == ("a.b", "a", ".b", "runs")
    assert path.with_name("x") == place("gcs://cells/runs/x") and path.with_suffix(".y").name == "a.y"
    assert (path / "c" / "d").relative_to(path) == pathlib.PurePosixPath("c/d") and {path, place(str(path))} == {path}
    assert place("runs/a") == pathlib.Path("runs/a") and is_bucket("s3://a/b") and not is_bucket("runs/a")
    with pytest.raises(TypeError):  # never a folder "gs:" on the local disk
        pathlib.Path(path)
    with pytest.raises(UserError, match="as text"):
        place(pathlib.Path("s3://cells/runs"))
    for text in ("s3://", "gs://cells", "s3://cells/a?endpoint=http://x", "gs://cells/a/../b"):
        with pytest.raises(UserError, match="://"):
            place(text)


def test_conditional_puts(folder):
    path = folder / "lock"
    first = path.put(b"1", "create")
    with pytest.raises(FileExistsError):
        path.put(b"2", "create")
    second = path.put(b"3", first)
    with pytest.raises(FileExistsError):
        path.put(b"4", first)
    assert path.read_bytes() == b"3" and path.version() == second != first
    assert probe.is_conditional(folder) and folder.keys() == ["lock"]


def test_a_store_that_takes_no_notice_of_conditions_is_found_out(faulty):
    faulty(0, hidden=("If-None-Match", "If-Match"))
    folder, lines = place("s3://cells/careless"), []
    probe.check(folder, lines.append)
    assert "no notice of the condition" in lines[0] and len(lines) == 1 and not folder.exists()


def test_lost_answers_and_failures_of_the_moment(faulty, tmp_path):
    server = faulty(3)
    folder = place("s3://cells/faulty")
    version = (folder / "a").put(b"0", "create")
    for count in range(1, 12):
        version = (folder / "a").put(str(count).encode(), version)
    for count in range(12):
        (folder / str(count)).write_bytes(b"x")
    (tmp_path / "large").write_bytes(bytes(range(256)) * 50_000)
    for _ in range(3):  # sent in parts
        (folder / "large").put(tmp_path / "large")
        (folder / "large").download(tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    transfer.remove(folder)
    assert not folder.exists() and min(server.faults.values()) >= 5


def test_what_fails_is_one_line(folder, google, clean):
    with pytest.raises(UserError, match="there is no bucket absent; create it"):
        probe.check(BucketPath(folder.scheme, "absent", "a"), print)
    if folder.scheme == "gs":
        google.read_only = True
        try:
            with pytest.raises(UserError, match="access refused.*credentials") as caught:
                probe.check(folder, print)
            with pytest.raises(UserError, match="access refused.*credentials"), writing(folder):
                create_array(folder / "0", (4, 4, 4), np.uint8, (4, 4, 4), 0, "0.4")
        finally:
            google.read_only = False
        assert "\n" not in str(caught.value)
        array = create_array(folder / "0", (4, 4, 4), np.uint8, (4, 4, 4), 0, "0.4")
        google.read_only = True
        try:
            with pytest.raises(UserError, match="access refused.*credentials"), writing(folder):
                array.write(np.ones((4, 4, 4), np.uint8)).result()
        finally:
            google.read_only = False


def test_a_server_that_is_not_there(clean):
    clean.setattr(access, "RETRIES", 0)
    clean.setattr("his4mae_jax.bucket.requests.PAUSES", ())
    clean.setenv("HIS4MAE_S3_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="s3://cells/a.*cannot be reached.*check the address"):
        probe.check(place("s3://cells/a"), print)


def test_without_obstore(clean):
    clean.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError, match=r"pip install 'his4mae_jax\[bucket\]'"):
        probe.check(place("s3://cells/a"), print)


def test_folders_are_sent_whole(folder, tmp_path):
    for name in ("a/b", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    target = folder / "sent"
    (target / "old").write_text("of an earlier one")
    transfer.publish(tmp_path, target)
    assert target.keys() == [transfer.MARK, "a/b", "c"] and transfer.is_whole(target)
    transfer.fetch(target, ["a/b"], tmp_path / "back")
    with pytest.raises(FileNotFoundError):
        transfer.fetch(target, ["absent"], tmp_path / "back")
    assert (tmp_path / "back" / "a" / "b").read_text() == "a/b"
    (target / transfer.MARK).unlink()
    assert not transfer.is_whole(target)
    transfer.remove(target)
    assert not target.exists()


def test_a_full_local_disk_is_no_fault_of_the_store(folder, tmp_path):
    (folder / "a").write_bytes(b"x")
    with pytest.raises(IsADirectoryError):
        (folder / "a").download(tmp_path)


def test_errors_of_arrays_and_of_the_local_disk_are_one_line(clean):
    path = place("s3://cells/a")
    refused = ValueError("PERMISSION_DENIED: Error writing s3://cells/a/0: HTTP response code: 403")
    assert "s3://cells/a: access refused" in str(friendly_io_error(refused, path))
    failed = ValueError("UNAVAILABLE: HTTP response code: 503")
    assert "run the same command again" in str(friendly_io_error(failed, "s3://cells/a"))
    full = OSError(errno.ENOSPC, "No space left on device", "/scratch/x")
    assert str(friendly_io_error(full, path)).startswith("/scratch/x: no space left")
    assert "s3://cells/a/b: gone" in str(friendly_io_error(FileNotFoundError("s3://cells/a/b"), path))
    assert friendly_io_error(KeyError("a"), path) is None


def test_workdirs_are_signed_and_public_images_are_not(clean):
    clean.delenv("HIS4MAE_S3_CREDENTIALS")
    assert access.s3_spec("public", {}, "s3://public")["aws_credentials"]["type"] == "anonymous"
    assert place("s3://mine/a").kvstore()["aws_credentials"]["type"] == "default"
    clean.setenv("HIS4MAE_S3_CREDENTIALS", "profile")
    assert place("s3://mine/a").kvstore()["aws_credentials"]["type"] == "profile"
