"""What the network makes of masked fields of view: input, masked input and output by the newest checkpoint."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from html import escape

import jax
import ml_collections
import numpy as np

from his4mae_jax.bucket.path import Place
from his4mae_jax.data.sampling.geometry import PLANE_AXES, make_geometry
from his4mae_jax.data.volumes.anisotropy import slice_axes
from his4mae_jax.data.volumes.contrast import content_box, estimate_contrast
from his4mae_jax.data.volumes.volume import VolumeLike, chunks_of
from his4mae_jax.models.patches import patchify, unpatchify
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.progress import Log, progress
from his4mae_jax.report.html import markup, record
from his4mae_jax.training.devices import mesh as meshes
from his4mae_jax.training.run.checkpoints import Checkpoints, read_config
from his4mae_jax.training.step.state import state_like
from his4mae_jax.workdir import checkpoint_steps

FILE = "reconstructions.npz"
RECONSTRUCTING = ("his4mae", "maester", "sdae_recon", "vae")  # methods with a decoder to pixels
SHOWN, DRAWN = 8, 32  # fields of view shown, those of most contrast of so many drawn at random
MASKED = (0.72, 0.8, 0.88)  # RGB of hidden pixels


@dataclasses.dataclass(frozen=True)
class Reconstructions:
    """Fields of view (B, rows, columns) in [0, 1].

    Attributes:
      step: of the checkpoint.
      images: input.
      masks: 1 where a pixel was hidden, else 0.
      outputs: of the decoder, whole.
    """

    step: int
    images: np.ndarray
    masks: np.ndarray
    outputs: np.ndarray

    @property
    def error(self) -> float:
        """Mean squared error, over hidden pixels where any are hidden."""
        weights = self.masks if self.masks.any() else np.ones_like(self.masks)
        return float(np.average((self.outputs - self.images) ** 2, weights=weights))


def find(workdir: Place, volumes: Callable[[], Sequence[VolumeLike]] | None, log: Log) -> Reconstructions | None:
    """The reconstructions of the newest checkpoint: those kept from an earlier page, else computed and kept.

    Args:
      workdir: with the checkpoints.
      volumes: opens the volumes that were trained on; None: nothing is computed.
      log: prints a line of progress.

    Returns:
      None where there is no checkpoint, the method has no decoder to pixels, or nothing is to be computed.
    """
    steps = checkpoint_steps(workdir)
    saved = read_config(workdir)
    if not steps or saved is None or saved["method"] not in RECONSTRUCTING:
        return None
    digest = hashlib.sha256(json.dumps(saved, sort_keys=True).encode()).hexdigest()
    of = {"step": steps[-1], "config": digest, "shown": [SHOWN, DRAWN]}
    arrays = record.kept(workdir, FILE, of)
    if arrays is None:
        if volumes is None:
            return None
        with progress("report: reconstructions", log=log):
            arrays = _compute(workdir, steps[-1], volumes())
        record.keep(workdir, FILE, of, **arrays)
    return Reconstructions(steps[-1], **{key: value.astype(np.float32) for key, value in arrays.items()})


def _compute(workdir, step, volumes):
    with contextlib.closing(Checkpoints(workdir, ml_collections.ConfigDict(read_config(workdir)))) as checkpoints:
        config = ml_collections.ConfigDict(checkpoints.about(step)["config"])
        everywhere = meshes.replicated(meshes.make_local_mesh())
        state, _ = checkpoints.restore(step, state_like(config), everywhere)
    method = METHODS[config.method]
    models = method.build(config)
    images = fields_of_view(config, volumes)

    def output(params, images):
        prepared = method.prepare(
            jax.random.key(config.seed), {"image": images}, models=models, settings=method.settings(config)
        )
        patches = patchify(images, models.patch_size)
        if config.method == "vae":
            pixels = models.decoder.apply({"params": params["decoder"]}, models.encoder.apply(
                {"params": params["encoder"]}, patches))  # fmt: skip
            return pixels, jax.numpy.zeros_like(images)
        visible = prepared["visible"]
        tokens = models.encoder.apply({"params": params["encoder"]}, patches, visible, with_cls=True)
        pixels = models.decoder.apply({"params": params["decoder"]}, tokens, visible)
        mask = jax.numpy.broadcast_to(prepared["mask"][:, :, None], patches.shape)
        return (unpatchify(each, models.encoder.grid) for each in (pixels, mask))

    outputs, masks = jax.jit(lambda *arguments: tuple(output(*arguments)))(state.params, images)
    return {"images": images.astype(np.float16), "masks": np.asarray(masks).astype(np.uint8),
            "outputs": np.asarray(outputs, np.float16)}  # fmt: skip


def fields_of_view(config: ml_collections.ConfigDict, volumes: Sequence[VolumeLike]) -> np.ndarray:
    """Draws fields of view at the resolution of the volumes, the same for a seed, and keeps those of most contrast.

    Args:
      config: of the training.
      volumes: that were trained on.

    Returns:
      `(B, rows, columns)` float32 in [0, 1].
    """
    fov, rng = config.model.fov, np.random.default_rng(config.seed)
    boxes = [content_box(volume) for volume in volumes]
    axes = [slice_axes(volume, config.data.axes) for volume in volumes]
    where = make_geometry(volumes, boxes, axes, fov)
    contrasts = [
        estimate_contrast(
            v, percentiles=tuple(config.data.contrast_percentiles), invert=config.data.invert, seed=config.seed
        )
        for v in volumes
    ]  # fmt: skip
    drawn = []
    for number in range(DRAWN):
        v = number % len(volumes)
        usable = np.unique(where.axes_Vx3[v])
        cost = {int(axis): _decoded(volumes[v], int(axis), fov) for axis in usable}
        cheap = [axis for axis in cost if cost[axis] <= 8 * min(cost.values())]  # not each page of a TIFF for one image
        axis = int(rng.choice(cheap))
        box = [slice(0, 0)] * 3
        for a in range(3):
            side = fov if a in PLANE_AXES[axis] else 1
            start = int(rng.integers(where.low_Vx3[v, a], where.high_Vx3[v, a] - side + 1))
            box[a] = slice(start, start + side)
        drawn.append(np.squeeze(contrasts[v].apply(volumes[v].read(tuple(box))), axis))
    order = np.argsort([-image.std() for image in drawn], kind="stable")[:SHOWN]
    return np.stack([drawn[i] for i in sorted(order)])


def _decoded(volume, axis, fov):
    """Voxels decoded for a field of view across an axis, about."""
    sides = [1 if a == axis else fov for a in range(3)]
    return np.prod([float(-(-n // c) * c) for n, c in zip(sides, chunks_of(volume), strict=True)])


def section(found: Reconstructions | None, method: str) -> str:
    """The section of the page."""
    if found is None:
        why = "" if method in RECONSTRUCTING else f" Method {method} has no decoder to pixels."
        return markup.section("reconstructions", "Reconstructions", f"<p>None to show yet.{escape(why)}</p>")
    hidden = found.masks.astype(bool)
    rows = [("input", found.images)]
    if hidden.any():
        rows.append(("masked", np.where(hidden[..., None], MASKED, found.images[..., None])))
        rows.append(("output", np.where(hidden, found.outputs, found.images)))
    else:
        rows.append(("output", found.outputs))
    grid = "".join(
        f'<div class="name">{name}</div>'
        + "".join(f'<img alt="{name}" src="{markup.image_uri(image, 90)}">' for image in images)
        for name, images in rows
    )
    share = f" Of each {100 * hidden.mean():.0f} % are hidden; the output is shown where they were." * bool(
        hidden.any()
    )
    text = (
        f"By the checkpoint of step {found.step:,}, {found.images.shape[1]} x {found.images.shape[2]} pixels each, "
        f"from the volumes that were trained on: drawn at random, those of most contrast.{share} Mean squared error "
        f"{found.error:.4f}."
    )
    body = markup.note(text) + f'<div class="fields" style="--columns:{len(found.images)}">{grid}</div>'
    return markup.section("reconstructions", "Reconstructions", body)
