"""Known data sets by name, in place of paths: `betaseg:high_c1`, `epfl:training`, `openorganelle:jrc_mus-pancreas-1`.

Where a config names a path (`data.train`, `data.test`, `segment.volume`, and for their ground truth
`data.train_labels` and `data.test_labels`), such a name stands for the volume, or its ground truth. A name may end in
a crop, `[z0:z1, y0:y1, x0:x1]`, as a path may. `fetch` downloads what the names need. A further data set is a module
like `epfl` with `CLASSES`, `image`, `labels` and `fetch`, and one entry in `SETS`.
"""

import os
import re

from his4mae_jax.data.known import betaseg, epfl, openorganelle
from his4mae_jax.data.known.source import Name, Source
from his4mae_jax.data.volumes.volume import VolumeLike
from his4mae_jax.errors import UserError

SETS = {"betaseg": betaseg, "epfl": epfl, "openorganelle": openorganelle}
_WITHOUT_ROOT = ("openorganelle",)  # can be streamed
_NAME = re.compile(rf"({'|'.join(SETS)}):(?!//)([^\[\]]*?)\s*(\[[^\]]*\])?")


def parse(spec: str | os.PathLike) -> Name | None:
    """The parts of a name; None for anything else, which is a path or URL."""
    match = _NAME.fullmatch(os.fspath(spec).strip())
    return Name(match[1], match[2], match[3] or "") if match else None


def qualify(spec: str, source: str) -> str:
    """`spec` with the prefix of the data set that `data.source` names, if it names one and `spec` has no prefix."""
    return f"{source}:{spec}" if source in SETS and spec and parse(spec) is None else spec


def image(name: Name, root: str | os.PathLike, target_nm: float | None) -> Source:
    """Finds the image of a name.

    Args:
      name: a name in its parts.
      root: `data.root`, the folder of downloads; OpenOrganelle's volumes can do without ("").
      target_nm: `data.voxel_size_nm`, which distinguishes the copies of a crop at several resolutions.

    Raises:
      UserError: no such volume, or it has not been fetched.
    """
    return SETS[name.set].image(name, _need_root(root, name), target_nm)


def labels(name: Name, root: str | os.PathLike) -> VolumeLike:
    """Opens the ground truth of a name; `classes` names its ids.

    Raises:
      UserError: the volume has none, or it has not been fetched.
    """
    return SETS[name.set].labels(name, _need_root(root, name))


def classes(name: Name) -> tuple[str, ...]:
    """Names of the label ids 0, 1, ... of a data set; empty where it has no ground truth."""
    return SETS[name.set].CLASSES


def _need_root(root: str | os.PathLike, name: Name) -> str | os.PathLike:
    if not root and name.set not in _WITHOUT_ROOT:
        raise UserError(f"config key data.root is empty: give the folder of {name.set}'s files")
    return root
