"""OpenOrganelle's mouse pancreas volumes (FIB-SEM), read directly from their public bucket.

Janelia's COSEM project team publishes raw tissue as multiscale N5 and OME-Zarr, https://openorganelle.janelia.org.
Volumes fill a small part of their grey range, some with dark and bright exchanged, so each brings the window in
which its authors show it.
"""

import dataclasses
import pathlib
import re

from his4mae_jax.errors import UserError

BUCKET = "s3://janelia-cosem-datasets"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One volume of the bucket.

    Attributes:
      path: of its multiscale group, below BUCKET; its metadata give voxel size and axes.
      window: grey levels shown as black and white; None: percentiles, as for any volume.
      invert: True where stained material is stored bright.
    """

    path: str
    window: tuple[float, float] | None = None
    invert: bool = False

    @property
    def url(self) -> str:
        return f"{BUCKET}/{self.path}"


VOLUMES = {
    "jrc_mus-pancreas-1": Entry(  # 3.4 x 4 x 4 nm (z, y, x); 7312 x 5000 x 7500 voxels
        "jrc_mus-pancreas-1/jrc_mus-pancreas-1.n5/em/fibsem-uint16", (7077, 13041), invert=True
    ),
    "jrc_mus-pancreas-2": Entry("jrc_mus-pancreas-2/jrc_mus-pancreas-2.n5/em/fibsem-uint8", (233, 248)),  # 4 nm
    "jrc_mus-pancreas-3": Entry(
        "jrc_mus-pancreas-3/jrc_mus-pancreas-3.n5/em/fibsem-uint16", (658, 955), invert=True
    ),
    "jrc_mus-pancreas-4": Entry("jrc_mus-pancreas-4/jrc_mus-pancreas-4.zarr/recon-1/em/fibsem-uint8"),
}  # fmt: skip


def entry(name: str) -> Entry:
    """One of VOLUMES; UserError for a name that is none."""
    if name not in VOLUMES:
        raise UserError(f"unknown OpenOrganelle volume {name!r}; choose one of {', '.join(VOLUMES)}")
    return VOLUMES[name]


def copy_path(root: pathlib.Path, name: str, crop: str, target_nm: float | None) -> pathlib.Path:
    """Where `--mode=fetch` puts the copy of a crop: one folder for each crop and voxel size asked for."""
    box = re.sub(r"[\[\]\s]", "", crop).replace(":", "-").replace(",", "_")
    level = f"{target_nm:g}nm" if target_nm else "full"
    return pathlib.Path(root) / "openorganelle" / f"{name}_{box}_{level}.ome.zarr"
