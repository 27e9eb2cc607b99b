"""What a file beside a volume (a sidecar) says of its axes and voxel size.

What a volume says itself goes first. Where the two contradict each other, a line says so. A sidecar that is damaged is
an error where it is needed, and a line where it is not.
"""

import dataclasses
from collections.abc import Callable, Sequence

from his4mae_jax.data.stores.units import Triple
from his4mae_jax.errors import UserError
from his4mae_jax.progress import say_once


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """What a sidecar says.

    Attributes:
      name: its path or URL, for messages.
      size_nm: voxel size (z, y, x) of the place that is opened, of level 0 if that has several; None: not said.
      axes: names of the stored axes, see `axes.normal`; None: not said.
    """

    name: str
    size_nm: Triple | None = None
    axes: tuple[str, ...] | None = None


class Beside:
    """The sidecar of a volume, which is read when it is first asked for.

    Args:
      read: finds and reads it, given the path of the data set in the file; UserError where it is damaged.
      compare: whether it is also read to compare it with what the volume says itself.
    """

    def __init__(self, read: Callable[[str], Sidecar | None] = lambda inside: None, compare: bool = True) -> None:
        self._read, self._compare = read, compare
        self._found: dict[str, Sidecar | UserError | None] = {}

    def found(self, inside: str = "") -> Sidecar | None:
        """Returns the sidecar; None if there is none.

        Args:
          inside: path of the data set in a file of several.

        Raises:
          UserError: it is damaged.
        """
        if inside not in self._found:
            try:
                self._found[inside] = self._read(inside)
            except UserError as error:
                self._found[inside] = error
        found = self._found[inside]
        if isinstance(found, UserError):
            raise found
        return found

    def compared(self, inside: str = "") -> Sidecar | None:
        """As `found`, for what is known already: a damaged one is a line, and one that costs requests is not read."""
        if not self._compare:
            return None
        try:
            return self.found(inside)
        except UserError as error:
            say_once(f"warning: {error}; it is left out, as the volume itself says what is needed")
            return None

    def axes(self, own: Sequence[str] | None, name: str) -> list[str] | None:
        """Names of the stored axes: the volume's own, else those of the sidecar.

        Args:
          own: names in the metadata of the volume; None or empty ones: it has none.
          name: of the volume, for messages.

        Raises:
          UserError: it has none, and the sidecar is damaged.
        """
        if not any(own or ()):
            sidecar = self.found()
            return list(sidecar.axes) if sidecar and sidecar.axes else own
        sidecar = self.compared()
        if sidecar and sidecar.axes and _space(sidecar.axes) != _space(own):
            say_once(
                f"warning: {name}: its own metadata name the axes {', '.join(_space(own))}, {sidecar.name} names "
                f"{', '.join(_space(sidecar.axes))}; its own are taken; correct whichever is wrong"
            )
        return list(own)


def _space(names: Sequence[str]) -> list[str]:
    return [name for name in names if name in ("z", "y", "x")]
