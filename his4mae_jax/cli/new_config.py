"""`his4mae init`: a commented config for the user's own volumes, from their metadata and grey levels.

A run with that config ends in minutes on a CPU. Each choice in it is a line with a reason.
"""

import json
import math
import pathlib
import re
from collections.abc import Sequence

from his4mae_jax.cli.process import log
from his4mae_jax.cli.user_volumes import SUFFIXES, Labels, UserVolume, find_labels, look
from his4mae_jax.errors import UserError

NM = 15.0  # voxel size at which the small model was measured; finer volumes are resampled to it
FINER = 0.8 * NM  # ... from this size in the plane on
SIDE = 256  # voxels a side, at the voxel size of the run: more of the test volume is cut off at first
STEPS = 10_000


def init(specs: Sequence[str], output: str | None, voxel_size_nm: Sequence[float] | None) -> None:
    """Write a config for some volumes, and print the next commands.

    Args:
      specs: paths or URLs of the volumes; the first one is also segmented.
      output: path of the config; None: the name of the first volume in the current folder.
      voxel_size_nm: z, y, x of all volumes; None: as their metadata say.

    Raises:
      UserError: a volume cannot be used, or the config is there already.
    """
    path = pathlib.Path(output or f"{_identifier(specs[0])}.py")
    if path.exists():
        raise UserError(f"{path}: is there already, and is not overwritten; give another file as --output=FILE.py")
    if path.suffix != ".py":
        raise UserError(f"--output={path}: a config is a Python file; give a name that ends in .py")
    volumes = [look(spec, voxel_size_nm) for spec in specs]
    labels = find_labels(volumes[0], specs)
    text = render(path, volumes, labels, voxel_size_nm)
    _check(text)
    from his4mae_jax.files import writing

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    for one in [*volumes, *([labels] if labels else [])]:
        log(f"init: {one.spec}: {one.text}")
    print(f"{path} is written; read it, change what does not suit, and go on with\n")
    for command in _next_commands(path):
        print(f"    {command}")


def _next_commands(path):
    workdir = f"runs/{path.stem}"
    return [f"his4mae {name} --config={path} --workdir={workdir}" for name in ("inspect", "all")]


def render(
    path: pathlib.Path, volumes: Sequence[UserVolume], labels: Labels | None, voxel_size_nm: Sequence[float] | None
) -> str:
    """The text of a config for some volumes.

    Args:
      path: where it will lie.
      volumes: the first one is segmented.
      labels: its ground truth, where there is some.
      voxel_size_nm: as for `init`.
    """
    from his4mae_jax.data.volumes.anisotropy import target_size

    target = _target_nm(volumes)
    sizes = [target_size(one.volume.voxel_size_nm, target) for one in volumes]
    crop = _central_crop(volumes[0], sizes[0])
    lines = [f"    # {one.spec}: {one.text}." for one in volumes]
    lines += [f"    c.data.train = {_tuple([one.spec for one in volumes])}", ""]
    if crop:
        lines += [
            "    # A central part of it, so that the first result is there in minutes; without the brackets all of it."
        ]
    else:
        lines += ["    # What is segmented. Training sees no labels, so it may be a volume that is trained on."]
    lines += [f"    c.data.test = {_quoted(volumes[0].spec + crop)}"]
    lines += _label_lines(labels, crop) + [""]
    lines += _size_lines(volumes, voxel_size_nm, target) + [""]
    thin = _thin_axis(volumes, sizes)
    if thin:
        lines += [f"    # Too few voxels along {thin} for slices that hold that axis."]
        lines += [f"    c.data.axes = c.segment.axes = {_quoted(thin)}", ""]
    low, high = volumes[0].window
    lines += [
        "    # Black and white are percentiles of the grey levels (0.1 and 99.9). Fixed levels, for all volumes:",
        f"    # c.data.contrast_window = ({low:g}, {high:g})",
        "",
        "    # Groups of voxels: more than there are organelles, as each may take two or three.",
        "    c.segment.clusters = 6",
        "",
        f"    c.train.steps = {STEPS:_}  # a few minutes on two CPU cores; more improve the result",
        "    return c",
    ]
    head = [
        f'"""Label-free segmentation of {pathlib.Path(volumes[0].spec).name}, written by `his4mae init`.',
        "",
        *(f"    {command}" for command in _next_commands(path)),
        "",
        "`his4mae settings` lists every setting; --config.KEY=VALUE overrides one on the command line.",
        '"""',
        "",
        "from his4mae_jax.config import get_small",
        "",
        "",
        "def get_config():",
        "    c = get_small()  # a small model, minutes on a CPU; get_default() is the paper's, for a GPU",
        "",
    ]
    return "\n".join([*head, *lines]) + "\n"


def _label_lines(labels, crop):
    if labels is None:
        return [
            "    # No ground truth was found beside it, so nothing is scored. With some, on the same grid:",
            '    # c.data.test_labels = "labels.tif"',
            '    # c.data.class_names = ("background", "mitochondria")  # names of the ids 0, 1, ...',
        ]
    lines = [f"    # Ground truth, for scores only. {labels.text}; id 255 is never scored."]
    lines += [f"    c.data.test_labels = {_quoted(labels.spec + crop)}"]
    if labels.binary:
        lines += ["    c.data.binary_labels = True  # every id above 0 is class 1"]
    lines += [f"    c.data.class_names = {_tuple(labels.names)}  # put the real names here"]
    return [*lines, "    c.evaluate.curve_box = 128  # voxels a side of the part that is scored during training"]


def _size_lines(volumes, voxel_size_nm, target):
    stored = tuple(float(size) for size in voxel_size_nm or volumes[0].volume.voxel_size_nm)
    if voxel_size_nm:
        lines = ["    # Voxel size of the files in nm (z, y, x)."]
    else:
        lines = ["    # The voxel size in nm (z, y, x) comes from the files; where it is wrong there:"]
    lines += [f"    {'' if voxel_size_nm else '# '}c.data.file_voxel_size_nm = {stored}"]
    if target == NM:
        lines += ["    # Resampled to this size as they are read, at which organelles fill the model's field of view."]
    elif target:
        lines += ["    # Resampled to one size as they are read: that of the coarsest volume."]
    else:
        lines += [f"    # As stored. The small model was made for about {NM:g} nm."]
    return [*lines, f"    c.data.voxel_size_nm = {float(target)}"]


def _target_nm(volumes):
    """The voxel size to train at; 0.0: as stored."""
    from his4mae_jax.data.volumes.anisotropy import in_plane_nm

    sizes = [in_plane_nm(one.volume) for one in volumes]
    if max(sizes) < FINER:
        return NM
    return 0.0 if max(sizes) < 1.01 * min(sizes) else round(max(sizes), 2)


def _central_crop(one, size_nm):
    """The central part of a volume that is segmented in minutes, as the end of its name; empty: all of it."""
    if one.spec.endswith("]"):
        return ""
    shape, stored = one.volume.shape, one.volume.voxel_size_nm
    sides = [min(n, math.ceil(SIDE * to / own)) for n, own, to in zip(shape, stored, size_nm, strict=True)]
    if math.prod(shape) <= 1.5 * math.prod(sides):
        return ""
    starts = [(n - side) // 2 for n, side in zip(shape, sides, strict=True)]
    return "[" + ", ".join(f"{a}:{a + side}" for a, side in zip(starts, sides, strict=True)) + "]"


def _thin_axis(volumes, sizes):
    """The letter of the one axis along which the volumes are thinner than a field of view; None where there is none."""
    from his4mae_jax.config import get_small
    from his4mae_jax.data.volumes.anisotropy import coarse_axis

    thin = set()
    for one, size_nm in zip(volumes, sizes, strict=True):
        if coarse_axis(one.volume) is None:
            extent = [
                n * own / to for n, own, to in zip(one.volume.shape, one.volume.voxel_size_nm, size_nm, strict=True)
            ]
            thin |= {letter for letter, n in zip("zyx", extent, strict=True) if n < get_small().model.fov}
    return thin.pop() if len(thin) == 1 else None


def _check(text):
    """Raise `UserError` where a run with this config would fail at once."""
    from his4mae_jax import config as configs
    from his4mae_jax.data import datasets

    space = {}
    exec(compile(text, "the new config", "exec"), space)
    config = space["get_config"]()
    configs.validate(config)
    datasets.training_volumes(config, "")
    datasets.target(config, "", need_labels=False)


def _identifier(spec):
    """A name for files from that of a volume."""
    place = spec.split("[")[0].split("?")[0].rstrip("/")
    return re.sub(r"\W+", "_", SUFFIXES.sub("", place.rsplit("/", 1)[-1])).strip("_").lower() or "my_volume"


def _tuple(items):
    return "(" + ", ".join(map(_quoted, items)) + ("," if len(items) == 1 else "") + ")"


def _quoted(text):
    """A Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)
