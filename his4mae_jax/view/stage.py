"""`his4mae view`: a segmentation in neuroglancer or napari, until the user ends it."""

import importlib
import pathlib
import socket
import threading

import ml_collections

from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.evaluation.evaluate import same_volume
from his4mae_jax.output import records
from his4mae_jax.progress import Log
from his4mae_jax.view import layers as plans
from his4mae_jax.view import napari_layers
from his4mae_jax.workdir import VOLUMES


def check(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
    """Checks, before a volume is opened, that there is something to show and a viewer to show it in.

    Raises:
      UserError: nothing has been segmented, or the viewer is not installed.
    """
    if not records.segmentation(folder):
        others = [
            records.segmentation(path) for path in sorted(folder.parent.glob("*")) if folder.parent.name == VOLUMES
        ]
        named = ", ".join(str(facts["volume"]) for facts in others if facts)
        remedy = f"name one that is as config key segment.volume: {named}" if named else "segment first"
        raise UserError(f"{folder / records.SEGMENTATION}: nothing to show, no segmentation is there; {remedy}")
    if config.view.viewer == "napari":
        napari_layers.module()
    else:
        check_neuroglancer()


def view(config: ml_collections.ConfigDict, folder: pathlib.Path, image: VolumeLike, log: Log) -> None:
    """Shows a segmentation; returns when the user closes the window, or ends the server with Ctrl-C.

    Args:
      config: the configuration, of which `view.*` counts.
      folder: of the labels.
      image: what was segmented, on any grid.
      log: prints one line.

    Raises:
      UserError: nothing has been segmented, the image is another one, or the viewer is not installed or cannot start.
    """
    check(config, folder)
    facts = records.segmentation(folder)
    if not same_volume(facts["volume"], image.name):
        raise UserError(
            f"{folder / records.SEGMENTATION}: the labels are of {facts['volume']}, not of {image.name}; give the "
            "config or segment.volume that they were made with"
        )
    layers = plans.plan(image, folder, log)
    if config.view.viewer == "napari":
        log(f"view: opening napari\n{plans.described(layers)}")
        napari_layers.show(layers, image, f"his4mae: {folder.name}")
        return
    from his4mae_jax.view import neuroglancer_server

    address, port = config.view.address, config.view.port
    with neuroglancer_server.serving(layers, image, log, address=address, port=port) as viewer:
        print(neuroglancer_server.directions(viewer.get_viewer_url(), address, socket.gethostname()), flush=True)
        log(f"view: layers\n{plans.described(layers)}")
        wait()
    log("view: ended")


def wait() -> None:
    """Returns when the user presses Ctrl-C; signals that stop the process pass."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt as interrupt:
        if type(interrupt) is not KeyboardInterrupt:  # SIGTERM, see `training.run.preemption`
            raise


def check_neuroglancer() -> None:
    """Checks that the package neuroglancer is there.

    Raises:
      UserError: it is not installed.
    """
    try:
        importlib.import_module("neuroglancer")
    except ImportError as error:
        raise UserError(f"neuroglancer is not there ({error}): pip install his4mae_jax[view]") from error
