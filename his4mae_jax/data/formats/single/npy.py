"""Open NumPy's .npy files: memory-mapped. They have no voxel size."""

import pathlib

import numpy as np

from his4mae_jax.data.stores.axes import to_zyx
from his4mae_jax.data.stores.grey import Meaning
from his4mae_jax.data.stores.levels import Opened, OpenOptions
from his4mae_jax.data.stores.mapped import lazy_array
from his4mae_jax.data.stores.units import brief
from his4mae_jax.errors import UserError

SUFFIXES = (".npy",)


def open_npy(file: pathlib.Path, options: OpenOptions) -> Opened:
    """Opens an array (z, y, x) in C or Fortran order.

    Args:
      file: an existing file.
      options: see `OpenOptions`.

    Raises:
      UserError: the file is damaged, or holds no numbers.
    """
    try:
        data = np.load(file, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise
    except (ValueError, OSError, EOFError, TypeError, SyntaxError) as error:
        raise UserError(f"{file}: unreadable .npy ({brief(error)}); save it again with numpy.save") from error
    if data.dtype.kind not in "iufb":
        raise UserError(f"{file}: holds {data.dtype}, no numbers; give the path of an image")
    array = lazy_array(data, Meaning(data.dtype.newbyteorder("=")), options.cache_bytes)
    return Opened(to_zyx(array, None, str(file), options.channel), options.voxel_size_nm)
