"""The stage as a whole: what it prints, how it ends, and what stops it."""

import json
import os
import re
import shutil
import signal
import sys
import threading
import urllib.request

import pytest

from his4mae_jax import config as configs
from his4mae_jax import main
from his4mae_jax.cli import command
from his4mae_jax.errors import UserError
from his4mae_jax.view import napari_layers, stage


@pytest.fixture
def config():
    return configs.get_default()


def test_it_prints_the_link_and_ends_with_ctrl_c(shown, config, said, capsys, monkeypatch):
    run, pages = shown(), []

    def wait():
        link = re.search(r"http://\S+", capsys.readouterr().out)[0]
        pages.append(urllib.request.urlopen(link))
        # An open page waits for events without end.
        pages.append(urllib.request.urlopen(link.replace("/v/", "/events/").rstrip("/") + "?c=1&gc=0&gs=0"))
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        really_wait()

    really_wait = stage.wait
    monkeypatch.setattr(stage, "wait", wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore it
    try:
        stage.view(config, run.folder, run.image, said.append)
    except KeyboardInterrupt:
        pytest.fail("Ctrl-C went through")
    finally:
        signal.signal(signal.SIGINT, before)
    assert [page.status for page in pages] == [200, 200]
    for page in pages:
        page.close()
    assert said[0].startswith("view: layers\n  image\n") and said[-1] == "view: ended"


def test_napari_gets_the_layers(shown, config, said, monkeypatch):
    run, opened = shown(), []
    config.view.viewer = "napari"
    monkeypatch.setattr(napari_layers, "module", lambda: None)
    monkeypatch.setattr(napari_layers, "show", lambda layers, image, title: opened.append((layers, image, title)))
    stage.view(config, run.folder, run.image, said.append)
    ((layers, image, title),) = opened
    assert layers[0].name == "image" and image is run.image and title == "his4mae: run"


def test_nothing_segmented_yet(shown, config, tmp_path, said):
    with pytest.raises(UserError, match=r"segment\.json: nothing to show, no segmentation is there; segment first"):
        stage.view(config, tmp_path, shown().image, said.append)


def test_another_volume_of_the_workdir_is_segmented(shown, config, tmp_path):
    run = shown()
    shutil.move(run.folder, tmp_path / "volumes" / "cell")
    with pytest.raises(
        UserError, match=r"other/segment\.json: .*; name one that is as .* segment.volume: .*/cell.ome.zarr"
    ):
        stage.check(config, tmp_path / "volumes" / "other")
    stage.check(config, tmp_path / "volumes" / "cell")


def test_labels_of_another_volume(shown, config, said):
    run = shown()
    facts = json.loads((run.folder / "segment.json").read_text())
    (run.folder / "segment.json").write_text(json.dumps({**facts, "volume": "other.tif"}))
    with pytest.raises(UserError, match="the labels are of other.tif, not of .*cell.ome.zarr; give"):
        stage.view(config, run.folder, run.image, said.append)


def test_without_neuroglancer(shown, config, said, monkeypatch):
    run = shown()
    monkeypatch.setitem(sys.modules, "neuroglancer", None)
    with pytest.raises(UserError, match=r"neuroglancer is not there .*: pip install his4mae_jax\[view\]"):
        stage.view(config, run.folder, run.image, said.append)


def test_a_workdir_without_labels_is_reported_before_a_volume_is_opened(tmp_path, config):
    config.data.test = str(tmp_path / "no.tif")
    with pytest.raises(UserError, match="volumes/no/segment.json: nothing to show"):
        main.run(config, tmp_path, "view")


def test_flags_of_the_command_are_settings(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("his4mae_jax.cli.arguments.run_in_process", lambda *given: seen.append(given))
    words = ["view", "--config=demo", f"--workdir={tmp_path}"]
    command.parse([*words, "--napari"]).run()
    command.parse([*words, "--port=8080", "--address=0.0.0.0"]).run()
    (napari, _, mode), (served, _, _) = seen
    assert mode == "view" and napari.view.viewer == "napari"
    assert (served.view.viewer, served.view.address, served.view.port) == ("neuroglancer", "0.0.0.0", 8080)
    with pytest.raises(UserError, match="view.port"):
        command.parse([*words, "--port=99999"]).run()
        configs.validate(seen[-1][0])
