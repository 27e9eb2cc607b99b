"""Volumes on web servers and in buckets: what is read is right, what fails is told, no zeros in its place."""

import json
import os
import shutil
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
import tensorstore as ts
from stores import s3_server

from his4mae_jax.data.stores import location
from his4mae_jax.data.volumes.blocks import read_async, stored_of
from his4mae_jax.data.volumes.volume import chunks_of, open_volume
from his4mae_jax.errors import UserError

ALL = (slice(None),) * 3
DATA = np.random.default_rng(0).integers(1, 200, (8, 9, 10)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _short_retries(monkeypatch):
    monkeypatch.setattr(location, "ATTEMPTS", 3)  # the first and two more
    monkeypatch.setattr(location, "FIRST_DELAY", "0.01s")
    for variable in ("HIS4MAE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "HIS4MAE_S3_CREDENTIALS"):
        monkeypatch.delenv(variable, raising=False)


def _write(kvstore_spec, driver="zarr", data=DATA):
    metadata = {"shape": data.shape, "chunks": [4, 4, 4], "dtype": "|u1", "fill_value": 0,
                "dimension_separator": "/"}  # fmt: skip
    if driver == "zarr3":
        metadata = {"shape": data.shape, "data_type": "uint8",
                    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 4, 4]}}}  # fmt: skip
    if driver == "n5":
        metadata = {"dimensions": data.shape[::-1], "blockSize": [4, 4, 4], "dataType": "uint8",
                    "compression": {"type": "gzip"}}  # fmt: skip
        data = data.T
    spec = {"driver": driver, "kvstore": kvstore_spec, "metadata": metadata}
    if driver == "neuroglancer_precomputed":
        data = data.T[..., None]
        spec = {"driver": driver, "kvstore": kvstore_spec,
                "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
                "scale_metadata": {"size": data.shape[:3], "resolution": [5, 4, 30], "encoding": "raw",
                                   "chunk_size": [4, 4, 4]}}  # fmt: skip
    if driver == "zarr, checksum":
        spec["driver"], metadata["compressor"] = "zarr", {"id": "zstd", "level": 3}
    array = ts.open(spec, create=True, delete_existing=True).result()
    array.write(data).result()
    if driver == "zarr, checksum":  # as in the OpenOrganelle bucket
        stored = json.loads(array.kvstore[".zarray"])
        array.kvstore[".zarray"] = json.dumps(stored | {"compressor": stored["compressor"] | {"checksum": True}})


def _folder(path):
    return {"driver": "file", "path": f"{path}/"}


DRIVERS = ("zarr", "zarr, checksum", "zarr3", "n5", "neuroglancer_precomputed")


@pytest.mark.parametrize("driver", DRIVERS)
def test_web_server(tmp_path, web, driver):
    _write(_folder(tmp_path / "a b" / "v"), driver)
    url = f"{web.url}/a%20b/v"
    volume = open_volume(url, (30, 4, 5))
    assert volume.voxel_size_nm == (30, 4, 5) and volume.shape == DATA.shape and volume.remote
    assert chunks_of(volume) == (4, 4, 4)
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    box = (slice(2, 5), slice(0, 1), slice(3, 10))
    np.testing.assert_array_equal(read_async(volume, box).result(), DATA[box])
    np.testing.assert_array_equal(open_volume(f"{url}[1:4, :, 2:]", 8).read(ALL), DATA[1:4, :, 2:])


@pytest.mark.parametrize("driver", ("zarr", "n5"))
def test_chunks_are_read_once(tmp_path, web, driver):
    _write(_folder(tmp_path / "v"), driver)
    volume = open_volume(f"{web.url}/v", 8)
    before = len(web.requests)
    volume.read(ALL)
    assert len(web.requests) - before == 2 * 3 * 3
    volume.read(ALL)
    assert len(web.requests) - before == 2 * 3 * 3


@pytest.mark.parametrize(
    "fault, message",
    [
        (403, "access refused.*403"),
        (401, "access refused.*401"),
        (500, "server failed.*500"),
        (503, "server failed.*503"),
        ("cut", "server failed"),
        ("hang", "time-out"),
        (b"<html>Please log in</html>", "cannot read the data"),
        (b"", "cannot read the data"),
    ],
)
def test_a_chunk_that_fails_is_never_read_as_zeros(tmp_path, web, fault, message):
    _write(_folder(tmp_path / "v"))
    volume = open_volume(f"{web.url}/v", 8)
    web.faults["/1/1/1"] = fault
    with pytest.raises(UserError, match=message) as caught:
        volume.read(ALL)
    assert web.url in str(caught.value) and "\n" not in str(caught.value)
    if fault != "hang":
        with pytest.raises(UserError, match=message):
            read_async(volume, ALL).result()
    untouched = (slice(0, 4),) * 3
    np.testing.assert_array_equal(volume.read(untouched), DATA[untouched])
    web.faults.clear()  # and nothing of the failure stays in the cache
    np.testing.assert_array_equal(volume.read(ALL), DATA)


@pytest.mark.parametrize("faults", [[500, 503], ["cut", "cut"], [429]])
def test_failures_of_the_moment_are_tried_again(tmp_path, web, faults):
    _write(_folder(tmp_path / "v"))
    web.faults["/v/.zarray"] = list(faults)
    web.faults["/0/0/0"] = list(faults)
    np.testing.assert_array_equal(open_volume(f"{web.url}/v", 8).read(ALL), DATA)
    assert not web.faults["/0/0/0"]


def test_a_server_that_dies(tmp_path, web, refusal):
    _write(_folder(tmp_path / "v"))
    volume = open_volume(f"{web.url}/v", 8)
    web.stop()
    with pytest.raises(UserError, match="server failed"):
        volume.read(ALL)
    assert "server failed" in refusal(f"{web.url}/v", 8)


@pytest.mark.parametrize("fault, message", [(403, "refused"), (500, "failed"), ("hang", "time-out"), (404, "no zarr")])
def test_metadata_that_cannot_be_had(tmp_path, web, refusal, fault, message):
    _write(_folder(tmp_path / "v"))
    web.faults["/v/"] = fault
    assert message in refusal(f"{web.url}/v", 8)


def test_metadata_that_is_a_page(tmp_path, web, refusal):
    _write(_folder(tmp_path / "v"))
    web.faults[".zattrs"] = b"<html>Please log in</html>"
    assert "not JSON" in refusal(f"{web.url}/v", 8)


@pytest.mark.parametrize("driver", DRIVERS)
def test_absent_chunks(tmp_path, web, driver):
    sparse = DATA.copy()
    sparse[:4, :4, :4] = 0  # left out by TensorStore, as by most writers
    _write(_folder(tmp_path / "v"), driver, sparse)
    for place in (tmp_path / "v", f"{web.url}/v"):
        np.testing.assert_array_equal(open_volume(place, 8).read(ALL), sparse)
        strict = open_volume(place, 8, missing_chunks="error")
        np.testing.assert_array_equal(strict.read((slice(4, 8), *ALL[1:])), sparse[4:])
        with pytest.raises(UserError, match="chunk is missing.*missing_chunks"):
            strict.read(ALL)
    with pytest.raises(UserError, match="data.missing_chunks"):
        open_volume(tmp_path / "v", 8, missing_chunks="guess")


def test_ome_zarr_level_of_a_web_server(tmp_path, web):
    from his4mae_jax.data.ome_zarr.write import create

    create(tmp_path / "v.zarr", DATA.shape, np.uint8, (30, 4, 5)).write(DATA).result()
    for place in (f"{web.url}/v.zarr", f"{web.url}/v.zarr/0"):  # a level by its own path has its group's scale
        volume = open_volume(place)
        assert volume.voxel_size_nm == (30, 4, 5)
        np.testing.assert_array_equal(volume.read(ALL), DATA)


@pytest.fixture(scope="module")
def s3():
    """An S3 server on loopback, with a client of boto3."""
    pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    server, endpoint, client = s3_server()
    yield endpoint, client
    client.close()
    server.stop()


def _upload(client, folder, prefix, acl="public-read"):
    for file in folder.rglob("*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder)}"
            client.put_object(Bucket="cells", Key=key, Body=file.read_bytes(), ACL=acl)


@pytest.mark.parametrize("driver", DRIVERS)
def test_s3(tmp_path, s3, driver, monkeypatch):
    endpoint, client = s3
    _write(_folder(tmp_path / "v"), driver)
    _upload(client, tmp_path / "v", f"deep/{driver[-8:]}")
    query = urllib.parse.urlencode({"endpoint": endpoint, "region": "us-east-1"})
    volume = open_volume(f"s3://cells/deep/{driver[-8:]}?{query}[:, 1:5, :]", (30, 4, 5))
    np.testing.assert_array_equal(volume.read(ALL), DATA[:, 1:5])
    monkeypatch.setenv("HIS4MAE_S3_ENDPOINT", endpoint)
    np.testing.assert_array_equal(open_volume(f"s3://cells/deep/{driver[-8:]}", 8).read(ALL), DATA)
    monkeypatch.setenv("HIS4MAE_S3_CREDENTIALS", "environment")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    np.testing.assert_array_equal(open_volume(f"s3://cells/deep/{driver[-8:]}", 8).read(ALL), DATA)


@pytest.mark.parametrize("driver", DRIVERS)
def test_chunks_that_a_bucket_lacks_are_known_from_its_list(tmp_path, s3, driver):
    endpoint, client = s3
    _write(_folder(tmp_path / "v"), driver)
    _upload(client, tmp_path / "v", f"sparse/{driver[-8:]}")
    url = f"s3://cells/sparse/{driver[-8:]}?{urllib.parse.urlencode({'endpoint': endpoint, 'region': 'us-east-1'})}"
    whole = stored_of(open_volume(url, (30, 4, 5)))
    assert whole is None  # all are there
    keys = [o["Key"] for o in client.list_objects_v2(Bucket="cells", Prefix=f"sparse/{driver[-8:]}/")["Contents"]]
    chunks = [key for key in keys if key.rpartition("/")[2][:1].isdigit()]
    client.delete_object(Bucket="cells", Key=chunks[-1])
    volume = open_volume(url, (30, 4, 5))
    stored, read = stored_of(volume), volume.read(ALL)
    assert (~stored.filled).sum() == 1 and np.count_nonzero(read != stored.value) < DATA.size
    assert all(
        (read[tuple(slice(e[i], e[i + 1]) for e, i in zip(stored.edges, at, strict=True))] == stored.value).all()
        for at in np.argwhere(~stored.filled)
    )


def test_a_zip_file_in_a_bucket(tmp_path, s3):
    endpoint, client = s3
    _write(_folder(tmp_path / "v"), "zarr, checksum")
    (tmp_path / "zips").mkdir()
    shutil.make_archive(str(tmp_path / "zips" / "v"), "zip", tmp_path, "v")
    _upload(client, tmp_path / "zips", "zips")
    for place in ("v.zip", "v.zip/v"):
        volume = open_volume(f"s3://cells/zips/{place}?endpoint={endpoint}[:, 1:5, :]", (30, 4, 5))
        np.testing.assert_array_equal(volume.read(ALL), DATA[:, 1:5])


def test_s3_failures(tmp_path, s3, refusal, monkeypatch):
    endpoint, client = s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert "no zarr" in refusal("s3://cells/absent", 8)
    refusal("s3://no-such-bucket/v", 8)
    assert "unknown option" in refusal("s3://cells/v?acl=public", 8)
    assert "no server or bucket" in refusal("s3:///v", 8)
    monkeypatch.setenv("HIS4MAE_S3_CREDENTIALS", "mine")
    assert "HIS4MAE_S3_CREDENTIALS" in refusal("s3://cells/v", 8)
    monkeypatch.delenv("HIS4MAE_S3_CREDENTIALS")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio.lab.org")
    assert "http://" in refusal("s3://cells/v", 8)
    _write(_folder(tmp_path / "v"))
    _upload(client, tmp_path / "v", "lost")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    volume = open_volume("s3://cells/lost", 8, missing_chunks="error")
    client.delete_object(Bucket="cells", Key="lost/0/1/0")
    with pytest.raises(UserError, match="chunk is missing"):
        volume.read(ALL)


def test_a_bucket_that_may_not_be_listed(tmp_path, web, monkeypatch):
    """S3 then answers 403 for what is not there: such volumes open, and an absent chunk is an error with a hint."""
    _write(_folder(tmp_path / "cells" / "v"))
    monkeypatch.setenv("HIS4MAE_S3_ENDPOINT", web.url)
    for name in ("zarr.json", ".zattrs", ".zgroup", "attributes.json", "info"):
        web.faults[name] = 403
    volume = open_volume("s3://cells/v", 8)
    np.testing.assert_array_equal(volume.read(ALL), DATA)
    web.faults["/1/0/0"] = 403
    with pytest.raises(UserError, match="may not be listed"):
        open_volume("s3://cells/v", 8).read(ALL)


def test_google_cloud(tmp_path):
    """TensorStore reads the address of another server once, so this runs in a process of its own."""
    code = f"""
import http.server, os, threading, urllib.parse, pathlib
root = pathlib.Path({str(tmp_path)!r})
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        head, _, key = path.partition("/storage/v1/b/cells/o/")
        file = root / key
        if head or not key or not file.is_file():
            return self.send_error(404)
        body = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("x-goog-generation", "1")
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://127.0.0.1:{{server.server_port}}"
os.environ["GCE_METADATA_ROOT"] = f"127.0.0.1:{{server.server_port}}"
from his4mae_jax.data.volumes.blocks import read_async
from his4mae_jax.data.volumes.volume import open_volume
for name in ("v", "checksum"):
    print(open_volume(f"gs://cells/{{name}}", 8).read((slice(None),) * 3).sum())
"""
    _write(_folder(tmp_path / "v"))
    _write(_folder(tmp_path / "checksum"), "zarr, checksum")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "HOME": "/x"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [int(total) for total in done.stdout.split()] == [DATA.sum()] * 2


def test_an_error_of_a_thread_that_tensorstore_does_not_tell_is_told():
    location.note(UserError("other.tif: page 3 is unreadable"))
    location.note(UserError("a/v.tif: page 7 is unreadable"))
    location.note(ValueError("a/v.tif: not for users"))
    said = location.explain("a/v.tif", ValueError("UNKNOWN: Python error"), remote=False)
    assert str(said) == "a/v.tif: page 7 is unreadable"
    said = location.explain("b/v.tif", ValueError("UNKNOWN: Python error"), remote=False)
    assert "b/v.tif: cannot read the data" in str(said)
