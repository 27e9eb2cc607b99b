"""The bioimage.io model description: `bioimageio.yaml`, format 0.5 (https://bioimage.io/docs)."""

import datetime
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import his4mae_jax
from his4mae_jax.errors import UserError
from his4mae_jax.export.graph import OPSET
from his4mae_jax.export.package import Package

FORMAT_VERSION = "0.5.4"
FILE = "bioimageio.yaml"
_NAME = re.compile(r"[A-Za-z0-9_+\- ()]{5,128}")
_CITE = (
    {
        "text": "Xie et al. 2023: MAESTER: Masked Autoencoder Guided Segmentation at Pixel Resolution for Accurate, "
        "Self-Supervised Subcellular Structure Recognition",
        "doi": "10.1109/CVPR52729.2023.00321",
    },
    {"text": "He et al. 2022: Masked Autoencoders Are Scalable Vision Learners", "doi": "10.1109/CVPR52688.2022.01553"},
)  # fmt: skip


def describe(
    package: Package,
    weights: str,
    files: Mapping[str, bytes],
    outputs: Mapping[str, np.ndarray],
    *,
    name: str,
    authors: Sequence[str],
    licence: str,
) -> dict[str, Any]:
    """The description of one ONNX file, as values that YAML has.

    Args:
      package: what is exported.
      weights: name of the ONNX file.
      files: contents by name: the ONNX file, README.md, and of each tensor `test_<tensor>.npy` and
        `sample_<tensor>.tif`.
      outputs: test outputs by name.
      name: of the model.
      authors: names of people.
      licence: SPDX identifier.

    Raises:
      UserError: bioimage.io does not allow the name.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"config key export.name is {name!r}: bioimage.io allows 5 to 128 letters, digits, spaces and _ + - ( )"
        )
    segments = package.centres is not None
    return {
        "type": "model",
        "format_version": FORMAT_VERSION,
        "name": name,
        "description": _description(package),
        "version": his4mae_jax.__version__,
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "authors": [{"name": author} for author in authors],
        "license": licence,
        "cite": list(_CITE),
        "documentation": {"source": "README.md", "sha256": _sha256(files["README.md"])},
        "tags": [
            "electron-microscopy", "volume-em", "2d", "vision-transformer", "self-supervised",
            *(["organelles", "semantic-segmentation"] if segments else ["feature-extraction"]), "onnx",
        ],
        "inputs": [_input(package, files)],
        "outputs": [_output(package, key, array, files) for key, array in outputs.items()],
        "weights": {
            "onnx": {"source": weights, "sha256": _sha256(files[weights]), "opset_version": OPSET},
        },
        "config": {
            "bioimageio": {
                "architecture_type": "convolutional VAE" if package.source.method == "vae" else "vision transformer",
                "modality": "electron microscopy",
                "task": "semantic segmentation" if segments else "feature extraction",
                "model_parameter_count": package.parameters,
            },
            "his4mae_jax": {"method": package.source.method, "step": package.source.step},
        },
    }  # fmt: skip


def _description(package: Package) -> str:
    text = (
        f"Encoder of volume electron microscopy, trained by {package.source.method} (his4mae_jax) at "
        f"{package.voxel_size_nm:g} nm a pixel. A field of view of {package.fov} x {package.fov} pixels gives "
        f"{package.grid} x {package.grid} "
    )
    if package.centres is None:
        return text + f"tokens of {package.features} features."
    return text + f"scores for each of {len(package.linear.offset_C)} centres, and the nearest cluster."


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tensor(name: str, text: str, axes: list[dict[str, Any]], data: dict[str, Any], files: Mapping[str, bytes]) -> dict:
    tensors = {
        key: {"source": file, "sha256": _sha256(files[file])}
        for key, file in (("test_tensor", f"test_{name}.npy"), ("sample_tensor", f"sample_{name}.tif"))
    }
    return {"id": name, "description": text, "axes": axes, "data": data, **tensors}


def _input(package: Package, files: Mapping[str, bytes]) -> dict[str, Any]:
    low, width = package.window.low, package.window.high - package.window.low
    steps = [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        {"id": "scale_linear", "kwargs": {"gain": 1 / width, "offset": -low / width}},
        {"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}},
    ]
    if package.window.invert:
        steps.append({"id": "scale_linear", "kwargs": {"gain": -1.0, "offset": 1.0}})
    axes = [{"type": "batch"}, _channels(["grey level"]), *_plane(package.fov, package.voxel_size_nm)]
    text = f"Grey levels of slices; {package.window.low:g} is black and {package.window.high:g} white."
    return {**_tensor("image", text, axes, {"type": "float32"}, files), "preprocessing": steps}


def _output(package: Package, name: str, array: np.ndarray, files: Mapping[str, bytes]) -> dict[str, Any]:
    token_nm = package.voxel_size_nm * package.models.patch_size
    tokens, pixels = _plane(package.grid, token_nm), _plane(package.fov, package.voxel_size_nm)
    labels = {"type": "uint8", "values": ["not labelled", *package.names]}
    numbers = {"type": "float32"}
    axes, data, text = {
        "tokens": lambda: (
            [*tokens, _channels([f"feature {i}" for i in range(array.shape[-1])])], numbers, "Features of each token.",
        ),
        "scores": lambda: (
            [_channels(package.centre_names), *tokens], numbers,
            f"For each token {package.score_text}; the smallest counts.",
        ),
        "token_labels": lambda: (tokens, labels, "The nearest cluster of each token."),
        "labels": lambda: (
            [_channels(["label"]), *pixels], labels, "The nearest cluster of each pixel, by linear expansion.",
        ),
    }[name]()  # fmt: skip
    return _tensor(name, text, [{"type": "batch"}, *axes], data, files)


def _channels(names: Sequence[str]) -> dict[str, Any]:
    return {"type": "channel", "channel_names": list(names)}


def _plane(size: int, scale_nm: float) -> list[dict[str, Any]]:
    return [{"type": "space", "id": axis, "size": size, "unit": "nanometer", "scale": scale_nm} for axis in "yx"]
