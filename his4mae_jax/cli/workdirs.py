"""The workdir of a command: a folder, or a place in a bucket that is tried before anything long is begun."""

from his4mae_jax.bucket import probe
from his4mae_jax.bucket.path import BucketPath, PathLike, Place, place
from his4mae_jax.cli.process import log
from his4mae_jax.errors import UserError
from his4mae_jax.workdir import lost_links

ON_A_DISK = ("compare", "export", "view")  # modes that need a workdir on a disk


def opened(workdir: PathLike | None, mode: str) -> Place | None:
    """The workdir as a path.

    Args:
      workdir: as given; None: there is none.
      mode: one of `stages.MODES`.

    Raises:
      UserError: the bucket cannot be used, or not for this mode; or a link in the folder leads nowhere.
    """
    folder = None if workdir is None else place(workdir)
    if folder is not None and (lost := next(lost_links(folder, segmentations=mode != "train"), None)):
        raise UserError(lost)
    if not isinstance(folder, BucketPath):
        return folder
    if mode in ON_A_DISK:
        raise UserError(f"{folder}: `his4mae {mode}` needs a workdir on a disk; copy this one to a disk")
    from his4mae_jax.training.devices import distributed

    if distributed.is_main():
        probe.check(folder, log)
    return folder
