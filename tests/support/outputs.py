"""Where a run leaves the labels and scores of a volume."""

import pathlib


def outputs(workdir) -> pathlib.Path:
    """The folder of the only volume that was segmented in a workdir."""
    (folder,) = (pathlib.Path(workdir) / "volumes").iterdir()
    return folder
