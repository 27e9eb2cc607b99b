"""What a process without some packages says of a volume."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def open_without(packages, path, voxel_size_nm=8):
    """Opens and reads a volume in a process of its own: the sum of its values, or the last line of its error."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
        "from his4mae_jax.data.volumes.volume import open_volume\n"
        f"print(open_volume({str(path)!r}, {voxel_size_nm!r}).read((slice(None),) * 3).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]
