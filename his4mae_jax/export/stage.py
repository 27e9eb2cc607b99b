"""`his4mae export`: the encoder of a workdir, perhaps with centres, into WORKDIR/export/."""

import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import yaml

import his4mae_jax
from his4mae_jax.clustering import centres as centre_files
from his4mae_jax.clustering.centres import Centres, Classes
from his4mae_jax.clustering.fit import encoder_digest
from his4mae_jax.data import datasets
from his4mae_jax.data.volumes.contrast import Contrast, estimate_contrast
from his4mae_jax.errors import UserError
from his4mae_jax.export import bioimageio, folder, readme
from his4mae_jax.export.graph import IR_VERSION, OPSET, onnx_module
from his4mae_jax.export.heads import numbers
from his4mae_jax.export.package import Package, Source, difference, evaluate, npy, tiff
from his4mae_jax.export.portable import PLATFORMS, serialise
from his4mae_jax.inference import trained
from his4mae_jax.inference.encoders.opening import chosen_step
from his4mae_jax.pretext.methods import METHODS
from his4mae_jax.progress import Log, progress
from his4mae_jax.training.run.checkpoints import Checkpoints

FOLDER = "export"


def export(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    log: Log,
    *,
    centres: str | os.PathLike | None = None,
    clusters: int = 0,
    names: Sequence[str] = (),
) -> list[pathlib.Path]:
    """Writes the encoder of the last checkpoint for other software, and what applies centres to its tokens.

    Args:
      config: the configuration: `segment.encoder` chooses the encoder, `export` the name, authors and licence.
      workdir: of a training.
      log: prints one line.
      centres: path of a centres file; None, or where there is no such file: the encoder alone.
      clusters: which of that file's centres.
      names: of the labels, in their order.

    Returns:
      The paths written.

    Raises:
      UserError: the package onnx is missing, a file is in the way, or the encoder or its centres cannot be exported.
    """
    onnx_module()
    out = pathlib.Path(workdir) / FOLDER
    folder.check_free(out)
    with progress("export", log=log):
        package = _package(config, workdir, log, centres, clusters, names)
        files, facts = _files(config, package, config.export.name or _name(workdir, config.method), log)
    paths = folder.write(out, files, facts)
    for path in paths:
        log(f"export: {path}")
    return paths


def _package(config, workdir, log, centres, clusters, names) -> Package:
    with contextlib.closing(Checkpoints(workdir, config)) as checkpoints:
        encoder = trained.load(checkpoints, chosen_step(config, checkpoints), config.segment.encoder)
    own = encoder.config.copy_and_resolve_references()
    own.model.dtype = "float32"
    digest = encoder_digest(encoder.params)
    fitted, facts = _centres(centres, clusters, digest, log)
    if fitted is None:
        volume = datasets.training_volumes(config, workdir)[0]
        percentiles, invert = tuple(config.data.contrast_percentiles), config.data.invert
        window = estimate_contrast(volume, percentiles=percentiles, invert=invert, seed=config.seed)
    else:
        window = Contrast.from_json(facts["contrast"])
    if isinstance(fitted, Classes):
        names = fitted.names
    names = tuple(names) if fitted is not None else ()
    window_of = str(facts["volume"] if facts else volume.name).rpartition("/")[2]  # no path of the user's
    source = Source(
        own.method, config.segment.encoder, encoder.step, digest, window_of, tuple(config.data.contrast_percentiles)
    )
    models, params = METHODS[own.method].build(own), jax.tree.map(np.asarray, encoder.params)
    return Package(models, params, window, round(encoder.voxel_size_nm, 6), fitted, names, source)


def _centres(path, clusters: int, digest: str, log: Log) -> tuple[Centres | Classes | None, dict[str, Any]]:
    """The classes of a file, or its centres of so many clusters, and its facts, where it is of this encoder."""
    if path is None or not pathlib.Path(path).exists():
        log("export: no centres yet, so the encoder alone; `his4mae segment` fits some")
        return None, {}
    by_size, facts = centre_files.load(path)
    classes = [size for size, each in by_size.items() if isinstance(each, Classes)]
    clusters = classes[0] if classes else clusters
    if facts.get("encoder_digest") != digest:
        log(f"export: {path} belongs to another checkpoint, so the encoder alone; segment again to export both")
        return None, {}
    if clusters not in by_size:
        raise UserError(
            f"config key segment.clusters is {clusters}, but {path} has centres of "
            f"{', '.join(map(str, by_size))} clusters; choose one of these"
        )
    if getattr(by_size[clusters], "texture", 0):
        raise UserError(
            f"{path}: its classes count the texture of tokens beyond a field of view, which an exported program does "
            "not see; set probe.texture to 0 and probe again to export them"
        )
    return by_size[clusters], facts


def _files(config, package: Package, name: str, log: Log) -> tuple[dict[str, bytes], dict[str, Any]]:
    """All files by name, and the content of export.json."""
    image = package.test_image()
    grey, files, outputs, worst = package.window.apply(image), {}, {}, 0.0
    for program, function in package.programs().items():
        outputs = evaluate(function, grey)
        model = package.onnx(program, {key: array.shape[1:] for key, array in outputs.items()})
        worst = max(worst, difference(model, grey, outputs))
        files[f"{program}.onnx"] = model.SerializeToString()
        files[f"{program}.jax"] = serialise(function, package.fov)
        log(f"export: {program}: {', '.join(outputs)}; ONNX differs from JAX by {worst:.0e} at most")
    described = "encoder.onnx" if package.centres is None else "segmenter.onnx"
    for key, array in {"image": image[:, None], **outputs}.items():
        files |= {f"test_{key}.npy": npy(array), f"sample_{key}.tif": tiff(array)}
    files["README.md"] = readme.text(package, name).encode()
    description = bioimageio.describe(
        package, described, files, outputs, name=name, authors=config.export.authors, licence=config.export.license
    )
    files[bioimageio.FILE] = yaml.safe_dump(description, sort_keys=False, allow_unicode=True, width=120).encode()
    return files, _facts(package, name, worst)


def _facts(package: Package, name: str, worst: float) -> dict[str, Any]:
    """The content of export.json."""
    source, fov, grid, linear = package.source, package.fov, package.grid, package.linear
    facts = {
        "name": name,
        "method": source.method, "encoder": source.encoder, "step": source.step, "encoder_digest": source.digest,
        "parameters": package.parameters,
        "input": {
            "onnx": {"name": "image", "shape": ["N", 1, fov, fov], "axes": "bcyx"},
            "jax": {"shape": ["N", fov, fov], "axes": "byx"},
            "dtype": "float32", "range": [0, 1], "pixel_nm": package.voxel_size_nm,
        },
        "window": {
            **package.window.to_json(), "of": source.window_of, "percentiles": list(source.percentiles),
            "rule": "clip((grey - low) / (high - low), 0, 1), and 1 minus that where invert is true",
        },
        "tokens": {"shape": ["N", grid, grid, package.features], "patch_size": package.models.patch_size,
                   "token_nm": package.voxel_size_nm * package.models.patch_size},
        "centres": None,
        "onnx": {"opset": OPSET, "ir_version": IR_VERSION, "largest_difference": worst},
        "jax": {"version": jax.__version__, "platforms": list(PLATFORMS)},
        "his4mae_jax": his4mae_jax.__version__,
    }  # fmt: skip
    if linear is not None:
        facts["centres"] = {
            "number": len(linear.offset_C), "label_of_centre": numbers(linear).tolist(),
            "names": {str(i): label for i, label in enumerate(package.names, 1)}, "variance": linear.variance,
            "probability": "softmax of -scores / (2 variance) over the centres",
        }  # fmt: skip
    return facts


def _name(workdir: str | os.PathLike, method: str) -> str:
    """A name that bioimage.io allows, after the method and the workdir."""
    name = pathlib.Path(workdir).resolve().name
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else " " for c in name)
    return f"{method} encoder of volume EM {' '.join(plain.split())}"[:64].strip()
