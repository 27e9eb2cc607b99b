r"""Reading a resampled volume from a compressed TIFF: whole, and slice by slice.

    python benchmarks/resampled_read.py --json runs/resampled_read.json

Writes a TIFF of noise, each page compressed with zlib, and reads it from 5 nm to 15 nm. Both ways take turns, round
after round (A B A B); each time the file is opened anew, so that no page is decoded yet. Prints medians of the seconds,
and how often a page was decoded: once for each page of the file, if no page leaves the cache before it is used up.
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from unittest import mock

import numpy as np
import tifffile
from reporting import add_json_option, machine, one_line, options, write_json

from his4mae_jax.data.formats.tiff import stack
from his4mae_jax.data.volumes.resample import resample
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume

WAYS = ("whole", "slice by slice")


def write_tiff(path: pathlib.Path, shape: tuple[int, int, int]) -> None:
    """Write pages of noise, one by one: the same page, shifted differently each time."""
    page = np.random.default_rng(0).integers(60, 196, shape[1:], np.uint8)
    pages = (np.roll(page, z, axis=1) for z in range(shape[0]))
    tifffile.imwrite(path, pages, shape=shape, dtype=np.uint8, compression="zlib", photometric="minisblack")


def read(volume: VolumeLike, way: str) -> np.ndarray:
    """Return all voxels of a volume, read in one of `WAYS`."""
    rows, columns = (slice(0, n) for n in volume.shape[1:])
    depth, step = volume.shape[0], volume.shape[0] if way == "whole" else 1
    return np.concatenate([volume.read((slice(z, z + step), rows, columns)) for z in range(0, depth, step)])


def measure(path: pathlib.Path, size_nm: float, target_nm: float, way: str) -> tuple[float, int, np.ndarray]:
    """Open and read a volume once; return the seconds, the number of pages that were decoded, and the voxels."""
    decoded, decode = [], stack._Pages.read

    def counted(pages, box):
        decoded.append(box[0].start)
        return decode(pages, box)

    with mock.patch.object(stack._Pages, "read", counted):
        volume = resample(open_volume(path, size_nm), target_nm)
        began = time.perf_counter()
        voxels = read(volume, way)
        return time.perf_counter() - began, len(decoded), voxels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="165,768,1024", help="z,y,x of the file")
    parser.add_argument("--from-nm", type=float, default=5.0, help="voxel size of the file")
    parser.add_argument("--to-nm", type=float, default=15.0, help="voxel size that is read")
    parser.add_argument("--rounds", type=int, default=3, help="measurements, of which the median is printed")
    parser.add_argument("--folder", help="folder for the file, which is removed again")
    add_json_option(parser)
    args = parser.parse_args()
    shape, about = tuple(int(n) for n in args.shape.split(",")), machine()
    print(f"{one_line(about)}, {' x '.join(map(str, shape))} uint8, zlib, {args.from_nm:g} to {args.to_nm:g} nm")
    seconds, decodes = {way: [] for way in WAYS}, {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = pathlib.Path(folder) / "noise.tif"
        write_tiff(path, shape)
        for _ in range(args.rounds):
            results = []
            for way in WAYS:
                took, pages, voxels = measure(path, args.from_nm, args.to_nm, way)
                seconds[way].append(took)
                decodes[way].append(pages)
                results.append(voxels)
            np.testing.assert_array_equal(*results)
    print(f"{'read':<16} {'s':>8} {'lowest':>8} {'highest':>8} {'decodes':>8} {'per page':>8}")
    rows = []
    for way in WAYS:
        s, pages = statistics.median(seconds[way]), statistics.median(decodes[way])
        print(f"{way:<16} {s:>8.2f} {min(seconds[way]):>8.2f} {max(seconds[way]):>8.2f} {pages:>8g} ", end="")
        print(f"{pages / shape[0]:>8.2f}")
        rows.append({"read": way, "seconds": s, "rounds": seconds[way], "decodes": decodes[way]})
    write_json(args.json, {**about, **options(args, "folder"), "rows": rows})


if __name__ == "__main__":
    main()
