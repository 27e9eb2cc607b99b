"""`--mode=fetch`: download what the names in a config stand for, and bring it into a form that is read in parts."""

import os
import pathlib
import shutil
import zipfile

from his4mae_jax.data.known import masks as known
from his4mae_jax.data.known import names as named
from his4mae_jax.data.known import openorganelle
from his4mae_jax.data.known.convert import to_ome_zarr
from his4mae_jax.data.known.download import download, need_space
from his4mae_jax.data.volumes.volume import open_volume
from his4mae_jax.errors import UserError
from his4mae_jax.files import writing

_IMAGE_KEYS = ("data.train", "data.test", "segment.volume")
_LABEL_KEYS = ("data.train_labels", "data.test_labels")


def fetch(config, log) -> None:
    """Downloads the known data sets that the config names to `data.root`; what is there already is left alone.

    BetaSeg's cells are taken out of its zip (which is kept) and written as OME-Zarr, EPFL's TIFFs stay as they are,
    and of OpenOrganelle the crops named are copied at the level that `data.voxel_size_nm` picks; whole volumes are
    streamed. Stopped at any point, the same command goes on from there.

    Raises:
      UserError: nothing is named, or something cannot be downloaded, unpacked or written.
    """
    names, labelled = _names(config, _IMAGE_KEYS), _names(config, _LABEL_KEYS)
    if not names and not labelled:
        raise UserError(
            "config keys data.train, data.test and segment.volume name no known data set, so there is nothing to "
            "fetch; name volumes such as betaseg:high_c4, epfl:training or openorganelle:jrc_mus-pancreas-2"
        )
    if not config.data.root:
        raise UserError("config key data.root is empty: give the folder to download to, as --config.data.root=...")
    root = pathlib.Path(config.data.root)
    cells = sorted({name.member for name in names + labelled if name.set == "betaseg"})
    if cells:
        fetch_betaseg(root, cells, log)
    for half in sorted({name.member for name in names + labelled if name.set == "epfl"}):
        fetch_epfl(root, half, log)
    for name in names:
        if name.set == "openorganelle":
            fetch_openorganelle(root, name, config, log)
    log(f"fetch: all that the config names is in {root}, or read from its source")


def _names(config, keys) -> list[named.Name]:
    """The names of known data sets among the values of some keys, each once."""
    found = []
    for key in keys:
        section, _, leaf = key.partition(".")
        value = config[section][leaf]
        for spec in [value] if isinstance(value, str) else list(value):
            if config.data.source == "betaseg" and spec and named.parse(spec) is None and section == "data":
                spec = f"betaseg:{spec}"
            name = named.parse(spec)
            if name and name not in found:
                found.append(name)
    return found


def fetch_betaseg(root: pathlib.Path, cells, log) -> None:
    """Makes `root/{cell}/{cell}_{part}.ome.zarr` of the image and the masks of each cell."""
    for cell in cells:
        known.check_betaseg_cell(cell)
    missing = [cell for cell in cells if not _has(known.betaseg_cell, root, cell)]
    if not missing:
        log(f"fetch: BetaSeg {', '.join(cells)}: there already")
        return
    archive = download(known.BETASEG_URL, root / "betaseg.zip", log, sha256=known.BETASEG_SHA256)
    try:
        with zipfile.ZipFile(archive) as zipped:
            for cell in missing:
                for part in ("source", *known.BETASEG_MASKS):
                    _unpack(zipped, root, cell, part, log)
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive}: damaged zip ({error}); delete it and run the same command again") from error
    log(f"fetch: BetaSeg {', '.join(missing)}: in {root}; {archive} is needed no more for them")


def _unpack(zipped: zipfile.ZipFile, root: pathlib.Path, cell: str, part: str, log) -> None:
    """One TIFF of the zip as OME-Zarr. It is written to a path of our own making, whatever its name in the zip."""
    final = root / cell / f"{cell}_{part}.ome.zarr"
    if final.exists():
        return
    ending = f"/{cell}/{cell}_{part}.tif"
    members = [info for info in zipped.infolist() if f"/{info.filename}".endswith(ending)]
    if len(members) != 1:
        raise UserError(
            f"{zipped.filename}: holds {len(members)} files {ending[1:]} in place of one; download it again"
        )
    tiff = root / cell / f"partial.{cell}_{part}.tif"
    whole = tiff.with_name(f"unpacked.{cell}_{part}.tif")
    with writing(whole):
        tiff.parent.mkdir(parents=True, exist_ok=True)
        if not whole.exists():
            need_space(tiff.parent, 2 * members[0].file_size, f"unpacking {cell}_{part}.tif")
            log(f"fetch: unpacking {cell}_{part}.tif ({members[0].file_size / 1e6:,.1f} MB)")
            with zipped.open(members[0]) as packed, open(tiff, "wb") as stream:
                shutil.copyfileobj(packed, stream, 1 << 20)  # zipfile checks the CRC at the end
            os.replace(tiff, whole)
        volume = open_volume(whole, known.BETASEG_VOXEL_SIZE_NM, image=part == "source")
        to_ome_zarr(volume, final, log, source=f"{members[0].filename} {members[0].CRC:08x}")
        whole.unlink()


def fetch_epfl(root: pathlib.Path, half: str, log) -> None:
    """Downloads one half of the EPFL volume and its ground truth to `root/epfl`."""
    for labels in (False, True):
        places = known.epfl_places(root, half, labels)
        if any(path.is_file() for path in places):
            log(f"fetch: EPFL {places[0].name}: there already")
            continue
        path = download(f"{known.EPFL_URL}/{places[0].name}", places[0], log)
        try:
            open_volume(path, known.EPFL_VOXEL_SIZE_NM, image=not labels)
        except UserError:  # no hash is published: that it opens is what can be checked
            os.replace(path, path.with_name(f"wrong.{path.name}"))
            raise


def fetch_openorganelle(root: pathlib.Path, name: named.Name, config, log) -> None:
    """Copies the crop of a name; a whole volume is read from its source."""
    entry = openorganelle.entry(name.member)
    if not name.crop:
        log(f"fetch: {name.set}:{name.member} is streamed from {entry.url}; name a crop of it to have that copied")
        return
    target_nm = config.data.voxel_size_nm or None
    path = openorganelle.copy_path(root, name.member, name.crop, target_nm)
    if path.exists():
        log(f"fetch: {path}: there already")
        return
    volume = open_volume(f"{entry.url}{name.crop}", target_nm=target_nm)
    to_ome_zarr(volume, path, log, source=f"{entry.url}{name.crop} {target_nm}")


def _has(find, *args) -> bool:
    try:
        find(*args)
    except UserError:
        return False
    return True
