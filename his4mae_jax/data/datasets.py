"""From `config.data` to open volumes: training images, the test image and its labels."""

import dataclasses
import os
import pathlib

from his4mae_jax import files
from his4mae_jax.data.known import masks as known
from his4mae_jax.data.known import names as named
from his4mae_jax.data.ome_zarr import write as ome_zarr
from his4mae_jax.data.phantom import cell as phantom
from his4mae_jax.data.volumes.anisotropy import in_plane_nm, size_text, slice_axes, target_size
from his4mae_jax.data.volumes.contrast import Contrast, Windowed
from his4mae_jax.data.volumes.labels import IGNORE
from his4mae_jax.data.volumes.resample import resample, resample_labels
from his4mae_jax.data.volumes.volume import VolumeLike, open_volume
from his4mae_jax.errors import UserError

PHANTOM_VOXEL_SIZE_NM = 16.0


@dataclasses.dataclass(frozen=True)
class Target:
    """What is segmented, and the ground truth it is scored with (None: not scored)."""

    image: VolumeLike
    labels: VolumeLike | None
    class_names: tuple[str, ...]


def open_image(spec, config, voxel_size_nm=None):
    """Open one image as it is trained on and segmented: at the voxel size of the config, with its window.

    Args:
      spec: a path or URL, or the name of a known volume (`named`), each with a crop if need be.
      voxel_size_nm: z, y, x of the file; None: its metadata say. Known volumes have their own.
    """
    source = _source(spec, config, voxel_size_nm)
    volume = _open(source, config)
    target_nm = target_size(volume.voxel_size_nm, config.data.voxel_size_nm)
    if target_nm != volume.voxel_size_nm:
        at_level = _open(source, config, target_nm)  # of a multiscale volume, the level nearest to that size
        volume = resample(at_level, target_nm)
    window = tuple(config.data.contrast_window) or source.window
    if not window:
        return volume
    return Windowed(volume, Contrast(*window, bool(config.data.invert) != source.invert))


def _source(spec, config, voxel_size_nm):
    name = named.parse(spec)
    if name is None:
        return named.Source(os.fspath(spec), voxel_size_nm)
    return named.image(name, config.data.root, config.data.voxel_size_nm or None)


def _open(source, config, target_nm=None):
    d = config.data
    return open_volume(
        source.path, source.voxel_size_nm, target_nm=target_nm, missing_chunks=d.missing_chunks,
        cache_bytes=d.cache_mb << 20,
    )  # fmt: skip


def _open_labels(spec, image, image_spec, config):
    """Open the ground truth of an image, on the grid of that image.

    Raises `UserError` when it covers another space.
    """
    name = named.parse(spec)
    if name is not None:
        return resample_labels(named.labels(name, config.data.root), image)
    # Label files often do not say their voxel size: they are taken for labels of the image's full resolution.
    full = _open(_source(image_spec, config, _file_voxel_size(config)), config)
    labels = open_volume(spec, full.voxel_size_nm, image=False)
    if labels.shape != full.shape:
        try:
            labels = open_volume(spec, image=False)
        except UserError:
            raise UserError(
                f"{labels.name}: labels of {labels.shape} voxels (z, y, x) do not fit the image {full.name} of "
                f"{full.shape}; give labels of the same volume"
            ) from None
    return resample_labels(known.AboveZero(labels) if config.data.binary_labels else labels, image)


def _file_voxel_size(config):
    return tuple(config.data.file_voxel_size_nm) or None


def _need(value, key, what):
    if not value:
        raise UserError(f"config key {key} is empty: give {what}, as --config.{key}=...")
    return value


def phantom_paths(config, workdir, index):
    """`(image, labels)` paths of one phantom cell: in `data.root`, or where that is empty in the workdir."""
    folder = pathlib.Path(config.data.root or workdir) / "phantom" / f"cell_{index}"
    return folder / "image.ome.zarr", folder / "labels.ome.zarr"


def make_phantoms(config, workdir, log):
    """Write the phantom cells that are not there yet; the last one is held out for the test."""
    size, seed = config.data.phantom.size, config.data.phantom.seed
    seed = config.seed if seed < 0 else seed
    for index in range(config.data.phantom.cells + 1):
        image_path, labels_path = phantom_paths(config, workdir, index)
        if image_path.exists() and labels_path.exists():
            continue
        log(f"phantom: drawing synthetic cell {index} ({size}x{size}x{size} voxels at 16 nm)")
        try:
            cell = phantom.make_phantom((size,) * 3, seed * 1000 + index, PHANTOM_VOXEL_SIZE_NM)
        except ValueError as error:
            raise UserError(f"config key data.phantom.size: {error}") from error
        names = {**dict(enumerate(phantom.CLASSES)), IGNORE: "outside the cell"}
        for path, array, label_values in (
            (image_path, cell.image_ZxYxX, None), (labels_path, cell.labels_ZxYxX, names),
        ):  # fmt: skip
            part = path.with_name(f"partial.{path.name}")
            with files.writing(path):
                out = ome_zarr.create(
                    part, array.shape, array.dtype, cell.voxel_size_nm, label_values=label_values, overwrite=True
                )
                out.write(array).result()
                os.replace(part, path)  # a cell is there whole or not at all


def _train_specs(config, workdir):
    """What `data.train` names: paths, or names of known volumes."""
    if config.data.source == "phantom":
        return [phantom_paths(config, workdir, i)[0] for i in range(config.data.phantom.cells)]
    what = "cell names" if config.data.source == "betaseg" else "paths of volumes"
    return [_betaseg(spec, config) for spec in _listed(_need(config.data.train, "data.train", f"{what} to train on"))]


def _betaseg(spec, config):
    """With `data.source = "betaseg"` a bare cell name is one of that data set."""
    return f"betaseg:{spec}" if config.data.source == "betaseg" and named.parse(spec) is None else spec


def _listed(value):
    return [value] if isinstance(value, str) else list(value)


def training_volumes(config, workdir, log=None):
    """Open the images to train on, at the voxel size to train at.

    Raises `UserError` for one that cannot be used; `log` is told which are anisotropic.
    """
    size = None if config.data.source == "phantom" else _file_voxel_size(config)
    volumes = [open_image(spec, config, size) for spec in _train_specs(config, workdir)]
    for volume in volumes:
        slice_axes(volume, config.data.axes, "data.axes", log)
        _same_voxel_size(volume, volumes[0])
    return volumes


def training_labels(config, workdir):
    """Open the ground truth of the volumes to train on, one each; for supervised methods."""
    source, specs = config.data.source, _train_specs(config, workdir)
    if source == "phantom":
        paths = [phantom_paths(config, workdir, i)[1] for i in range(len(specs))]
    else:
        paths = specs if source == "betaseg" else _listed(config.data.train_labels)
    if not paths or len(paths) != len(specs):
        raise UserError(
            f"config key data.train_labels holds {len(paths)} paths for {len(specs)} volumes: method "
            f'"{config.method}" is supervised: give the ground truth of each volume of data.train'
        )
    size = None if source == "phantom" else _file_voxel_size(config)
    images = [open_image(spec, config, size) for spec in specs]
    return [_open_labels(path, image, spec, config) for path, image, spec in zip(paths, images, specs, strict=True)]


def class_names(config):
    """Names of the classes of the data set, by label id; empty when it has no labels."""
    fixed = {"phantom": phantom.CLASSES, "betaseg": known.BETASEG_CLASSES}.get(config.data.source)
    if fixed or config.data.class_names:
        return tuple(fixed or config.data.class_names)
    labelled = [named.parse(spec) for spec in (config.data.test_labels, *_listed(config.data.train_labels))]
    return next((named.classes(name) for name in labelled if name), ())


def _same_voxel_size(volume, first):
    """One model knows one voxel size; another would show it organelles of another size."""
    if abs(in_plane_nm(volume) / in_plane_nm(first) - 1) > 0.01:
        raise UserError(
            f"{volume.name}: voxels of {size_text(volume)} beside others of {size_text(first)}; set "
            "--config.data.voxel_size_nm to the size that all are to be resampled to"
        )


def target(config, workdir, *, need_labels, log=None):
    """Open the volume to segment; its labels too when it has some.

    `segment.volume` takes the place of the data set's own test volume and has no labels.
    Raises `UserError` when labels are needed and there are none, or they do not fit the image; `log` is told when
    the volume is anisotropic.
    """
    if config.segment.volume:
        if need_labels:
            raise UserError(
                "config key segment.volume: this volume has no labels to score; give data.test and data.test_labels"
            )
        image = open_image(config.segment.volume, config, tuple(config.segment.file_voxel_size_nm) or None)
        slice_axes(image, config.segment.axes, "segment.axes", log)
        return Target(image, None, tuple(config.data.class_names))
    source, size = config.data.source, _file_voxel_size(config)
    if source == "phantom":
        spec, labels_spec = phantom_paths(config, workdir, config.data.phantom.cells)
        size = None
    elif source == "betaseg":
        spec = labels_spec = _betaseg(_need(config.data.test, "data.test", "the name of the test cell"), config)
    else:
        spec, labels_spec = _need(config.data.test, "data.test", "the volume to segment"), config.data.test_labels
    if need_labels and not labels_spec:
        raise UserError("config key data.test_labels is empty: give the ground truth of data.test to score")
    image = open_image(spec, config, size)
    slice_axes(image, config.segment.axes, "segment.axes", log)
    if not labels_spec:
        return Target(image, None, class_names(config))
    labels = _open_labels(labels_spec, image, spec, config)
    names = _need(class_names(config), "data.class_names", "the names of label ids 0, 1, ...")
    return Target(image, labels, names)


def all_volumes(config, workdir):
    """Open every image that the config names: list of `(roles, volume)`, such as `("train, test", volume)`.

    Raises `UserError` when it names none, or one cannot be opened.
    """
    d, size = config.data, _file_voxel_size(config)
    named_by_role = []
    if d.source == "phantom" or d.train:
        named_by_role += [("train", spec, size) for spec in _train_specs(config, workdir)]
    if d.source == "phantom":
        named_by_role.append(("test", phantom_paths(config, workdir, d.phantom.cells)[0], size))
    elif d.test:
        named_by_role.append(("test", _betaseg(d.test, config), size))
    if config.segment.volume:
        own = tuple(config.segment.file_voxel_size_nm) or None
        named_by_role.append(("segment", config.segment.volume, own))
    roles = {}
    for role, spec, own in named_by_role:
        roles.setdefault((os.fspath(spec), own), []).append(role)
    if not roles:
        raise UserError("config keys data.train, data.test and segment.volume are empty: name a volume to look at")
    phantoms = d.source == "phantom"
    return [
        (", ".join(dict.fromkeys(r)), open_image(spec, config, None if phantoms and r != ["segment"] else own))
        for (spec, own), r in roles.items()
    ]
