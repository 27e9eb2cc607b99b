"""Neuroglancer for a run, served by this process until it is told to stop: the client, the volumes and the names.

To be imported where the package neuroglancer is known to be there. It brings its own client, so that the browser needs
no other server than this one.
"""

import contextlib
import errno
import json
import logging
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import neuroglancer
import neuroglancer.server
import tornado.web

from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError
from his4mae_jax.progress import Log
from his4mae_jax.view import neuroglancer_state as states
from his4mae_jax.view.layers import Layer
from his4mae_jax.view.levels import open_levels
from his4mae_jax.view.table import segment_properties

EVERYWHERE = "0.0.0.0"
_REASONS = {
    errno.EADDRINUSE: "the port is taken; choose another, or 0 for one that is free",
    errno.EACCES: "no right to use the port; choose one above 1023",
}


class _Names(tornado.web.RequestHandler):
    """Serves `segment_properties` of layers by number."""

    def initialize(self, names: Sequence[dict[str, Any] | None]) -> None:
        self._names = names

    def get(self, number: str) -> None:
        content = self._names[int(number)] if int(number) < len(self._names) else None
        if content is None:
            self.send_error(404)
            return
        self.set_header("Content-Type", "application/json")
        self.set_header("Access-Control-Allow-Origin", "*")  # the page may know this machine by another name
        self.finish(json.dumps(content))


@contextlib.contextmanager
def serving(
    layers: Sequence[Layer], image: VolumeLike, log: Log, *, address: str = "127.0.0.1", port: int = 0
) -> Iterator[Any]:
    """Serves the layers within its `with` block.

    Args:
      layers: as `layers.plan` finds them, the image first.
      image: the volume of the first.
      log: prints one line where a volume cannot be read.
      address: of the network interface.
      port: 0: one that is free.

    Yields:
      The `neuroglancer.Viewer`; its `get_viewer_url()` is the link.

    Raises:
      UserError: the address or port cannot be used, or a volume cannot be opened.
    """
    levels = [open_levels(layer, image) for layer in layers]
    names = [segment_properties(layer) for layer in layers]
    _start(address, port)
    try:
        server = neuroglancer.server.global_server
        # The browser of another machine is to get no credentials of this one's user.
        viewer = neuroglancer.Viewer(allow_credentials=False)
        path = f"/his4mae/{viewer.token}"
        server.app.add_handlers(r".*", [(rf"{re.escape(path)}/(\d+)/info", _Names, {"names": names})])
        shown = []
        for i, layer in enumerate(layers):
            found = states.sources(layer, levels[i], log)
            if names[i]:
                found.append(neuroglancer.LayerDataSource(url=f"precomputed://{server.server_url}{path}/{i}"))
            shown.append(states.state_layer(layer, found))
        with viewer.txn() as state:
            states.fill(state, layers, shown, image.shape)
        yield viewer
    finally:
        _stop()


def _start(address: str, port: int) -> None:
    if ":" in address:
        raise UserError(
            f"config key view.address is {address!r}: neuroglancer makes no links of IPv6; give IPv4 or a name"
        )
    try:
        with socket.create_server((address, port)):  # the packages leave sockets behind where this fails
            pass
        neuroglancer.set_server_bind_address(address, port)
        neuroglancer.server.start()
    except OSError as error:
        reason = _REASONS.get(error.errno, f"{error.strerror or error}; choose an address of this machine")
        raise UserError(f"config keys view.address and view.port: {address}:{port}: {reason}") from error


def _stop() -> None:
    """Stops the server. What the browser is still waiting for is given up, without a word."""
    logger = logging.getLogger("tornado")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        neuroglancer.server.global_server.executor.shutdown(wait=False, cancel_futures=True)
        neuroglancer.stop()
    finally:
        logger.setLevel(level)


def directions(url: str, address: str, host: str) -> str:
    """How to open the link, from this machine and from another one.

    Args:
      url: the link.
      address: at which it is served.
      host: name of this machine.
    """
    port = re.search(r":(\d+)/", url)[1]
    lines = [f"neuroglancer: {url}"]
    if address == EVERYWHERE:
        lines.append("  Served to every machine that reaches this one: who has the link sees the data.")
        lines.append(
            "  Names load from this host name alone; where it is unknown, give this machine's IP as the address."
        )
    else:
        lines.append(f"  From another machine: ssh -L {port}:{address}:{port} {host}, then open the link there.")
    lines.append("  Ctrl-C ends it.")
    return "\n".join(lines)
