"""Volumes of every format, damaged at random, opened and read: `python corrupted.py FORMAT FIRST COUNT FOLDER`.

A process of its own, for a library in C may crash on what it is given. Prints one line for each damaged volume as soon
as it was tried: its number, the damage, and what happened.
"""

import pathlib
import random
import shutil
import sys
import warnings

import numpy as np

SHAPE = (12, 40, 36)


def volume() -> np.ndarray:
    """Grey levels that compress, as those of tissue do."""
    z, y, x = np.indices(SHAPE)
    noise = np.random.default_rng(0).integers(0, 24, SHAPE)
    return (100 + 60 * np.sin(x / 5 + z / 3) * np.cos(y / 7) + noise).astype(np.uint8)


def _tiff(folder, image, **how):
    import tifffile

    tifffile.imwrite(folder / "cell.tif", image, **how)
    return "cell.tif"


def _ome_zarr(version):
    def write(folder, image):
        from his4mae_jax.data.ome_zarr import write as ome_zarr

        out = ome_zarr.create(
            folder / "cell.ome.zarr", SHAPE, np.uint8, (8.0, 8.0, 8.0), chunks=(8, 16, 16), version=version
        )
        out.write(image).result()
        return "cell.ome.zarr"

    return write


def _zip(folder, image):
    _ome_zarr("0.5")(folder, image)
    shutil.make_archive(str(folder / "cell"), "zip", folder / "cell.ome.zarr")
    shutil.rmtree(folder / "cell.ome.zarr")
    (folder / "cell.zip").rename(folder / "cell.ozx")
    return "cell.ozx"


def _tensorstore(folder, image, spec):
    import tensorstore as ts

    kvstore = {"driver": "file", "path": str(folder / "cell") + "/"}
    ts.open({**spec, "kvstore": kvstore}, create=True).result().write(np.moveaxis(image, (0, 1, 2), (2, 1, 0))).result()


def _n5(folder, image):
    meta = dict(
        dimensions=SHAPE[::-1], blockSize=[16, 16, 8], dataType="uint8", compression={"type": "gzip"},
        resolution=[8.0, 8.0, 8.0], units=["nm"] * 3,
    )  # fmt: skip
    _tensorstore(folder, image, {"driver": "n5", "metadata": meta})
    (folder / "cell").rename(folder / "cell.n5")
    return "cell.n5"


def _precomputed(folder, image):
    import tensorstore as ts

    scale = dict(size=SHAPE[::-1], chunk_size=[16, 16, 8], resolution=[8, 8, 8], encoding="raw")
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{folder / 'cell'}/"},
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1}, "scale_metadata": scale,
    }  # fmt: skip
    ts.open(spec, create=True).result()[..., 0].write(image.T).result()
    return "cell"


def _hdf5(folder, image):
    import h5py

    with h5py.File(folder / "cell.h5", "w") as file:
        data = file.create_dataset("raw", data=image, chunks=(8, 16, 16), compression="gzip")
        data.attrs["element_size_um"] = (0.008,) * 3
    return "cell.h5:/raw"


def _mrc(folder, image):
    import mrcfile

    with mrcfile.new(folder / "cell.mrc") as file:
        file.set_data(image.astype(np.int16))
        file.voxel_size = 80.0
    return "cell.mrc"


def _npy(folder, image):
    np.save(folder / "cell.npy", image)
    return "cell.npy"


def _nifti(folder, image):
    import nibabel

    made = nibabel.Nifti1Image(image.T, np.diag((8e-6, 8e-6, 8e-6, 1.0)))
    made.header.set_xyzt_units("mm")
    nibabel.save(made, folder / "cell.nii.gz")
    return "cell.nii.gz"


def _nrrd(folder, image):
    import nrrd

    nrrd.write(str(folder / "cell.nrrd"), image.T, {"spacings": [8.0] * 3, "space units": ["nm"] * 3, "space": "3D"})
    return "cell.nrrd"


def _slices(kind):
    def write(folder, image):
        from PIL import Image

        (folder / "cell").mkdir()
        for number, plane in enumerate(image):
            Image.fromarray(plane).save(folder / "cell" / f"slice_{number:03d}.{kind}")
        return "cell"

    return write


FORMATS = {
    "TIFF": _tiff,
    "TIFF, deflate": lambda folder, image: _tiff(folder, image, compression="zlib"),
    "OME-Zarr 0.4": _ome_zarr("0.4"),
    "OME-Zarr 0.5": _ome_zarr("0.5"),
    "OME-Zarr, zip": _zip,
    "N5": _n5,
    "precomputed": _precomputed,
    "HDF5": _hdf5,
    "MRC": _mrc,
    "npy": _npy,
    "NIfTI": _nifti,
    "NRRD": _nrrd,
    "PNG slices": _slices("png"),
    "JPEG slices": _slices("jpg"),
}


def damage(folder: pathlib.Path, rng: random.Random) -> str:
    """Damages one file under a folder; says how."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    # Half of them in proportion to their size, as disks do; else any file, for metadata are small.
    path = rng.choices(files, [p.stat().st_size for p in files])[0] if rng.random() < 0.5 else rng.choice(files)
    data, kind = bytearray(path.read_bytes()), rng.choice(KINDS)
    at = rng.randrange(len(data)) if data else 0
    if kind == "deleted":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[:at])
    elif kind == "emptied":
        path.write_bytes(b"")
    elif kind == "longer":
        path.write_bytes(data + rng.randbytes(rng.randrange(1, 400)))
    elif kind == "shifted":
        path.write_bytes(data[:at] + rng.randbytes(rng.randrange(1, 8)) + data[at:])
    else:
        if kind == "bit" and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == "byte" and data:
            data[at] = rng.randrange(256)
        else:
            length = min(rng.choice((16, 512)), len(data) - at)
            data[at : at + length] = bytes(length) if kind == "zeros" else rng.randbytes(length)
        path.write_bytes(data)
    return f"{path.relative_to(folder)} {kind} at {at}"


KINDS = ("bit", "bit", "byte", "byte", "cut", "zeros", "noise", "emptied", "deleted", "longer", "shifted")


def read_whole(spec: str) -> np.ndarray:
    """Opens a volume and reads all of it."""
    from his4mae_jax.data.volumes.volume import open_volume

    opened = open_volume(spec, voxel_size_nm=(8.0, 8.0, 8.0))
    return opened.read(tuple(slice(0, n) for n in opened.shape))


def outcome(spec: str, image: np.ndarray) -> str:
    """What comes of opening and reading a volume: refused, the same, other values, or an error of the program."""
    from his4mae_jax.errors import UserError

    try:
        read = read_whole(spec)
    except UserError as error:
        text = str(error)
        return "refused" if "\n" not in text and len(text) > 20 else f"error: {text!r}"
    except BaseException as error:
        return f"error: {type(error).__name__} {' '.join(str(error).split())[:300]}"
    return "same" if read.shape == image.shape and np.array_equal(read, image) else "other values"


def main() -> None:
    name, first, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])
    warnings.simplefilter("ignore")
    whole, image = folder / "whole", volume()
    whole.mkdir(parents=True, exist_ok=True)
    spec = FORMATS[name](whole, image)
    image = read_whole(str(whole / spec))  # JPEG and signed grey levels are read as other ones
    for number in range(first, first + count):
        copy = folder / "copy"
        shutil.copytree(whole, copy)
        how = damage(copy, random.Random(f"{name} {number}"))
        print(f"{number}\t{how}\t", end="", flush=True)
        print(outcome(str(copy / spec), image), flush=True)
        shutil.rmtree(copy)


if __name__ == "__main__":
    main()
