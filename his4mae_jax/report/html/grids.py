"""What a page shows of a segmented volume, on the grids that it has."""

import dataclasses

from his4mae_jax.data.volumes.volume import VolumeLike


@dataclasses.dataclass(frozen=True)
class Segmented:
    """A segmented volume as a page shows it.

    Attributes:
      image: that is shown, on the grid of the labels or another one of the same space.
      encoded: what the model works on; it may have other voxels.
      truth: ground truth, class ids and `IGNORE`, on any grid of that space; None: there is none.
      class_names: of the ground truth's ids.
    """

    image: VolumeLike
    encoded: VolumeLike
    truth: VolumeLike | None = None
    class_names: tuple[str, ...] = ()
