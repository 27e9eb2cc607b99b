"""Neuroglancer's pages, states and chunks, fetched from this machine as the browser fetches them."""

import contextlib
import io
import json
import re
import socket
import urllib.error
import urllib.request
import zlib

import numpy as np
import pytest
import tensorstore as ts
from neuroglancer.static_file_server import StaticFileServer

from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.output.neuroglancer import write_precomputed
from his4mae_jax.view import layers as plans
from his4mae_jax.view import neuroglancer_server, neuroglancer_state
from his4mae_jax.view.levels import FULL, Levels, open_levels
from his4mae_jax.view.neuroglancer_server import directions, serving


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


class Client:
    """What the browser asks for, by the names of layers."""

    def __init__(self, viewer):
        self.page = viewer.get_viewer_url()
        self.root = self.page.partition("/v/")[0]
        self.state = json.loads(json.dumps(viewer.state.to_json(), default=float))
        self.layers = {layer["name"]: layer for layer in self.state["layers"]}

    def source(self, name, number=0):
        return self.layers[name]["source"][number]

    def key(self, name, number=0):
        return self.source(name, number)["url"].removeprefix("python://volume/")

    def info(self, name, number=0):
        return json.loads(get(f"{self.root}/neuroglancer/info/{self.key(name, number)}"))

    def chunk(self, name, start, end, scale=(1, 1, 1)):
        scale, start, end = (",".join(map(str, numbers)) for numbers in (scale, start, end))
        data = get(f"{self.root}/neuroglancer/npz/{self.key(name)}/{scale}/{start}/{end}")
        return np.load(io.BytesIO(zlib.decompress(data)))

    def mesh(self, name, label):
        """Vertices (z, y, x) of a surface, in nm, where the browser draws them."""
        data = get(f"{self.root}/neuroglancer/mesh/{self.key(name, 1)}/{label}")
        count = int(np.frombuffer(data, np.uint32, 1)[0])
        vertices = np.frombuffer(data, np.float32, 3 * count, offset=4).reshape(-1, 3)
        scales = [self.info(name, 1)["coordinateSpace"][axis][0] for axis in "zyx"]
        return self.nm(name, vertices / scales, 1)

    def nm(self, name, voxels, number=0):
        """Positions (z, y, x) of points of a source's own grid, whose first voxel covers 0 to 1."""
        transform = self.source(name, number)["transform"]
        matrix, scales = np.array(transform["matrix"]), [transform["outputDimensions"][a][0] * 1e9 for a in "zyx"]
        return (np.asarray(voxels) @ matrix[:, :3].T + matrix[:, 3]) * scales


@pytest.fixture
def serve(said):
    """Function: a context that serves a run and yields a `Client`."""

    @contextlib.contextmanager
    def start(run, **keywords):
        layers = plans.plan(run.image, run.folder, said.append)
        with serving(layers, run.image, said.append, **keywords) as viewer:
            yield Client(viewer)

    return start


def test_voxels_places_and_names_as_the_browser_gets_them(shown, serve):
    run = shown()
    with serve(run) as client:
        assert b"<script" in get(client.page)
        for name, array in run.arrays.items():
            info = client.info(name)
            assert info["shape"] == list(array.shape) and info["dataType"] == array.dtype.name, name
            labels = client.layers[name]["type"] == "segmentation"
            assert info["volumeType"] == ("segmentation" if labels else "image"), name
            chunk = client.chunk(name, (2, 3, 1), (9, 18, 17))
            assert chunk.dtype == array.dtype and np.array_equal(chunk, array[2:9, 3:18, 1:17]), name
            # The image and the labels begin at the same corner, whatever their voxels.
            begin = np.subtract(run.origin, np.divide(run.size, 2))
            assert client.nm(name, (0, 0, 0)) == pytest.approx(begin), name
            assert client.nm(name, array.shape) == pytest.approx(begin + np.multiply(run.size, (10, 40, 36))), name
        for name, names in (("organelles", run.names), ("labels", {i: f"cluster {i}" for i in range(1, 5)})):
            url = client.source(name, 2)["url"].removeprefix("precomputed://")
            assert url.startswith(client.root)
            listed = json.loads(get(f"{url}/info"))
            assert listed["@type"] == "neuroglancer_segment_properties"
            assert listed["inline"]["ids"] == [str(i) for i in names]
            assert listed["inline"]["properties"][0]["values"] == list(names.values())


def test_zoomed_out_chunks_are_those_of_the_stored_levels(shown, serve):
    run = shown()
    stored = open_volume(run.image.name, target_nm=(10, 8, 10)).read((slice(None),) * 3)
    with serve(run) as client:
        assert np.array_equal(client.chunk("image", (0, 0, 0), (10, 20, 18), (1, 2, 2)), stored)
        assert client.chunk("labels", (0, 0, 0), (3, 5, 5), (4, 4, 4)).shape == (3, 5, 5)
        for bad in (((0, 0, 0), (11, 1, 1), (1, 1, 1)), ((0, 0, 0), (1, 1, 1), (4096, 1, 1))):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                client.chunk("labels", *bad)


def test_the_state_shows_what_the_layers_say(shown, serve):
    run = shown(invert=True)
    with serve(run) as client:
        layers = client.layers
        assert [name for name, layer in layers.items() if layer.get("visible", True)] == ["image", "organelles"]
        assert layers["image"]["shaderControls"] == {"normalized": {"range": [230, 20]}}
        organelles = layers["organelles"]
        assert organelles["segmentColors"] == {str(i): c for i, c in run.colours.items()}
        assert organelles["hideSegmentZero"] is True and "segments" not in organelles
        assert "segmentColors" not in layers["instances of cluster 1"]
        assert layers["probability of cluster 2"]["shaderControls"]["normalized"] == {"range": [0, 255]}
        assert layers["probability of cluster 2"]["shaderControls"]["colour"] == "#E69F00"
        assert client.state["selectedLayer"]["layer"] == "organelles"
        # The position is the centre of a voxel in the middle of the image.
        scales = [client.state["dimensions"][axis][0] * 1e9 for axis in "zyx"]
        middle = np.multiply(client.state["position"][::-1], scales)
        assert middle == pytest.approx(np.add(run.origin, np.multiply(run.size, (4, 19, 17))))


def test_surfaces_lie_on_their_labels(shown, serve):
    run = shown()
    inside = np.argwhere(run.arrays["organelles"] == 2)
    size = np.multiply(run.size, (1, 2, 2))
    begin = np.subtract(run.origin, np.divide(run.size, 2))
    with serve(run) as client:
        vertices = client.mesh("organelles", 2)
        # A surface goes through the borders of voxels; at the border of the volume, through the centres.
        low, high = np.maximum(inside.min(0), 0.5), np.minimum(inside.max(0) + 1, np.array((10, 20, 18)) - 0.5)
        assert vertices.min(0) == pytest.approx(begin + low * size, abs=1e-2)
        assert vertices.max(0) == pytest.approx(begin + high * size, abs=1e-2)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            client.mesh("organelles", 77)


def test_surfaces_come_from_a_level_that_is_small_enough(shown, monkeypatch):
    run = shown()
    (labels,) = (layer for layer in plans.plan(run.image, run.folder, print) if layer.name == "labels")
    levels = open_levels(labels, run.image)
    monkeypatch.setattr(neuroglancer_state, "MESH_VOXELS", 1000)
    assert neuroglancer_state.sources(labels, levels, print)[1].url.shape == (5, 10, 9)
    monkeypatch.setattr(neuroglancer_state, "MESH_VOXELS", 100)
    assert len(neuroglancer_state.sources(labels, levels, print)) == 1


def test_a_large_image_is_not_read_as_a_whole(memory):
    source = memory(np.zeros((64, 256, 256), np.uint8))
    levels = Levels({FULL: source}, labels=False)
    served = neuroglancer_state.Served(levels, neuroglancer_state.dimensions((4, 4, 4)), print, "image")
    assert source.largest == 0
    served.get_encoded_subvolume("npz", (0, 0, 0), (8, 8, 8), "1,1,1")
    assert source.largest == 8**3
    served.get_encoded_subvolume("npz", (0, 0, 0), (8, 8, 8), "4,4,4")
    assert source.largest == 32**3


def test_a_chunk_that_cannot_be_read_is_said_and_the_rest_goes_on(shown, serve, said):
    run = shown()
    for chunk in (run.folder / "organelles.ome.zarr" / "0").rglob("0"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with serve(run) as client:
        with pytest.raises(urllib.error.HTTPError, match="400"):
            client.chunk("organelles", (0, 0, 0), (4, 8, 8))
        with pytest.raises(urllib.error.HTTPError, match="400"):
            client.mesh("organelles", 1)
        assert client.chunk("image", (0, 0, 0), (4, 8, 8)).shape == (4, 8, 8)
    assert len(said) == 2 and all(line.startswith("view: organelles: ") for line in said)


def test_nothing_is_served_without_the_link(shown, serve):
    with serve(shown()) as client:
        token = re.search(r"/v/(\w+)/", client.page)[1]
        key = client.key("image")
        for path in (f"/his4mae/{'0' * len(token)}/2/info", f"/neuroglancer/info/{'0' * len(key)}", "/v/0/"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(client.root + path)
        with pytest.raises(urllib.error.HTTPError, match="404"):  # a layer without names
            get(f"{client.root}/his4mae/{token}/0/info")


def test_the_client_comes_from_this_machine(shown, serve):
    """Every script, style and worker that the page loads is served beside it."""
    with serve(shown()) as client:
        page = get(client.page).decode()
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert loaded and not [path for path in loaded if "//" in path]
        for path in loaded:
            assert get(client.page + path)


def test_a_port_of_ones_own_and_one_that_is_taken(shown, serve):
    run = shown(named=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"127.0.0.1:{port}: the port is taken; choose another"),
            serve(run, port=port),
        ):
            pass
    with serve(run, port=port) as client:
        assert client.root == f"http://127.0.0.1:{port}"


def test_an_address_that_is_not_ours(shown, serve):
    run = shown(named=False)
    for address in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(UserError, match=f"{address}:0: .+; choose an address of this machine"):
            with serve(run, address=address):
                pass


def test_an_address_of_ipv6(shown, serve):
    with pytest.raises(UserError, match="'::1': neuroglancer makes no links of IPv6"), serve(shown(), address="::1"):
        pass


def test_what_was_written_is_read_over_http(shown):
    """As a browser reads a folder on a server, without this package: OME-Zarr, and precomputed with its names."""
    run = shown()
    write_precomputed(run.folder / "organelles.ome.zarr", run.folder / "organelles.precomputed", names=run.names)
    with StaticFileServer(str(run.folder), bind_address="127.0.0.1", daemon=True) as url:

        def read(driver, path):
            return ts.open({"driver": driver, "kvstore": f"{url}/{path}"}).result()

        labels = run.arrays["organelles"]
        assert np.array_equal(read("zarr", "organelles.ome.zarr/0/").read().result(), labels)
        precomputed = read("neuroglancer_precomputed", "organelles.precomputed/")
        assert np.array_equal(np.squeeze(precomputed.read().result(), 3).T, labels)
        # Corners in nm, to half a voxel: the format counts whole voxels.
        begin = np.multiply(
            precomputed.domain.origin[:3], [unit.multiplier for unit in precomputed.dimension_units[:3]]
        )
        assert np.abs(begin[::-1] - np.subtract(run.origin, np.divide(run.size, 2))).max() <= 5
        info = json.loads(get(f"{url}/organelles.precomputed/info"))
        names = json.loads(get(f"{url}/organelles.precomputed/{info['segment_properties']}/info"))["inline"]
        assert dict(zip(names["ids"], names["properties"][0]["values"], strict=True)) == {
            str(i): name for i, name in run.names.items()
        }


def test_directions():
    text = directions("http://127.0.0.1:8080/v/abc/", "127.0.0.1", "gpu7")
    assert text.splitlines()[0] == "neuroglancer: http://127.0.0.1:8080/v/abc/"
    assert "ssh -L 8080:127.0.0.1:8080 gpu7" in text
    text = directions("http://gpu7:8080/v/abc/", "0.0.0.0", "gpu7")
    assert "ssh" not in text and "who has the link sees the data" in text and "give this machine's IP" in text


def test_the_server_is_gone_afterwards(shown, serve):
    with serve(shown(named=False)) as client:
        pass
    with pytest.raises(urllib.error.URLError):
        get(client.page)
    assert neuroglancer_server.neuroglancer.server.global_server is None
