"""A frozen encoder that onnxruntime runs, in the place of a Flax module: `Models` of no pretext method."""

import dataclasses
import functools
import importlib
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from his4mae_jax.errors import UserError
from his4mae_jax.inference.encoders.description import Description
from his4mae_jax.models.kernels.backend import targets_cpu
from his4mae_jax.models.patches import unpatchify

BATCH_FLOP = 5e10  # of the fields of view that are encoded at once: a second or less on a few cores, which share them
MAX_FOVS = 32  # a batch that is not full is filled up, and small networks gain nothing by more


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """What `make_encode` and `Coverage` ask of an encoder of `models`.

    Attributes:
      about: what the network takes and gives.
      session: onnxruntime's.
      embed_dim: features of a token, D.
      at_once: images that the network takes at once; 0: any number.
    """

    about: Description
    session: Any
    embed_dim: int
    at_once: int

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along the sides of an image."""
        return self.about.tokens, self.about.tokens

    @property
    def fov_flop(self) -> float:
        """FLOP of encoding one field of view, about: as if each weight was used once for each token."""
        return 2 * self.about.weight_bytes / 4 * (self.about.tokens**2 + self.about.prefix_tokens)

    @property
    def batch(self) -> int:
        """Fields of view to encode at once."""
        return self.at_once or int(min(max(BATCH_FLOP / self.fov_flop, 1), MAX_FOVS))

    def apply(self, variables: Mapping[str, Any], patches_BxNxP: jax.Array) -> jax.Array:
        """Tokens `(B, N, D)` of fields of view in [0, 1], cut into patches of voxels; `variables` hold no weights."""
        about = self.about
        images_BxFxF = unpatchify(patches_BxNxP.astype(jnp.float32), self.grid)
        B, side = len(images_BxFxF), about.size
        if about.fov != side:
            images_BxFxF = jax.image.resize(images_BxFxF, (B, side, side), "cubic")
        mean, std = (jnp.array(x, jnp.float32).reshape(1, -1, 1, 1) for x in (about.mean, about.std))
        images_BxCxHxW = (images_BxFxF[:, None] - mean) / std
        like = jax.ShapeDtypeStruct((B, about.tokens**2, self.embed_dim), jnp.float32)
        if targets_cpu():
            # Not pure_callback: it hands JAX arrays over, whose copies wait for the very threads that wait for the
            # callback (on one core, or with several CPU devices, it never returned).
            return buffer_callback(self._into, like)(images_BxCxHxW)
        return jax.pure_callback(lambda images: self.tokens(np.asarray(images)), like, images_BxCxHxW)

    def _into(self, context, out, images):
        np.asarray(out)[...] = self.tokens(np.asarray(images))

    def tokens(self, images_BxCxHxW: np.ndarray) -> np.ndarray:
        """Tokens `(B, N, D)` float32 of images as the network takes them. NumPy alone: JAX calls this."""
        step = self.at_once or len(images_BxCxHxW)
        parts = []
        for start in range(0, len(images_BxCxHxW), step):
            images = images_BxCxHxW[start : start + step]
            filled = np.concatenate([images, np.repeat(images[-1:], step - len(images), axis=0)])
            parts.append(run(self.session, self.about, filled)[: len(images)])
        return np.concatenate(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenModels:
    """`Models` of a frozen encoder: `encoder`, and the voxels along each side of a patch."""

    encoder: FrozenEncoder
    patch_size: int


def run(session: Any, about: Description, images: np.ndarray) -> np.ndarray:
    """The tokens of patches that a network gives for images `(B, C, H, W)`, `(B, N, D)` float32; see `_patch_tokens`.

    Raises:
      UserError: it gives something else, or does not run.
    """
    name = about.output or session.get_outputs()[0].name
    try:
        (out,) = session.run([name], {session.get_inputs()[0].name: np.ascontiguousarray(images)})
    except Exception as error:  # onnxruntime's have no base of their own
        raise UserError(f"{about.onnx}: does not run on an image of {about.size} pixels ({_short(error)})") from error
    tokens = _patch_tokens(about, np.asarray(out), len(images)).astype(np.float32)
    if about.unit_length:
        tokens /= np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12)
    return tokens


def _patch_tokens(about: Description, out: np.ndarray, images: int) -> np.ndarray:
    """From `(B, prefix + N, D)` or `(B, rows, columns, D)` the tokens of the patches `(B, N, D)`."""
    side, where = about.tokens, f"{about.path}: output {about.output or 'of the ONNX file'}"
    shape = "x".join(map(str, out.shape))
    if out.ndim not in (3, 4) or len(out) != images or out.dtype.kind != "f":
        raise UserError(
            f"{where}: {out.dtype} {shape} for {images} image{'s' * (images > 1)}, but must be float tokens (images, "
            "tokens, features) or (images, rows, columns, features); name another output"
        )
    if out.ndim == 4:
        if out.shape[1:3] != (side, side) or about.prefix_tokens:
            raise UserError(
                f"{where}: {shape} for {side}x{side} patches (size / patch) after {about.prefix_tokens} prefix_tokens; "
                "correct size, patch or prefix_tokens, or name another output"
            )
        return out.reshape(images, side * side, -1)
    extra = out.shape[1] - side**2
    if extra != about.prefix_tokens:
        more = f"prefix_tokens has to be {extra} if the cls and register tokens come first" if extra >= 0 else "too few"
        raise UserError(
            f"{where}: {out.shape[1]} tokens for an image of {side}x{side} patches (size / patch) after "
            f"{about.prefix_tokens} prefix_tokens: {more}; correct size, patch or prefix_tokens"
        )
    return out[:, about.prefix_tokens :]


def onnxruntime_module() -> ModuleType:
    """The package `onnxruntime`.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(
            f"config key segment.encoder_file: a frozen encoder needs the package onnxruntime ({error}): "
            "pip install his4mae_jax[onnx]"
        ) from error


@functools.lru_cache(maxsize=1)
def frozen_models(about: Description) -> FrozenModels:
    """Opens the ONNX file of an encoder, and tries it on one image; the last one stays open.

    Raises:
      UserError: onnxruntime is missing, or the file is no such encoder.
    """
    session = _session(about)
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise UserError(f"{about.onnx}: takes {len(inputs)} inputs ({names}), but must take images alone")
    if about.output and about.output not in outputs:
        raise UserError(f"{about.path}: output is {about.output!r}, but {about.onnx} has {', '.join(outputs)}")
    if not about.output and len(outputs) > 1:
        raise UserError(
            f"{about.path}: {about.onnx} has the outputs {', '.join(outputs)}; name the one with the tokens of patches "
            "(key output)"
        )
    wanted = (about.channels, about.size, about.size)
    if inputs[0].type != "tensor(float)" or not _fits(inputs[0].shape, wanted):
        raise UserError(
            f"{about.onnx}: takes {inputs[0].type} {inputs[0].shape}, but {about.path} describes float images (any "
            f"number, {', '.join(map(str, wanted))}); correct channels or size, or export it anew"
        )
    first = inputs[0].shape[0]
    at_once = first if isinstance(first, int) and first > 0 else 0
    trial = np.zeros((at_once or 1, *wanted), np.float32)
    tokens = run(session, about, trial)
    if not np.isfinite(tokens).all():
        raise UserError(f"{about.onnx}: tokens of a grey image are not finite; export it in float32")
    return FrozenModels(FrozenEncoder(about, session, tokens.shape[-1], at_once), about.voxels_per_patch)


def _session(about: Description) -> Any:
    ort = onnxruntime_module()
    options = ort.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    options.log_severity_level = 3  # errors alone
    try:
        return ort.InferenceSession(os.fspath(about.onnx), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"{about.onnx}: not an ONNX file that onnxruntime can open ({_short(error)})") from error


def _fits(shape: list[Any], wanted: tuple[int, ...]) -> bool:
    """Whether an input `(images, *wanted)` suits a shape whose open dimensions are names or None."""
    return len(shape) == 1 + len(wanted) and all(
        not isinstance(n, int) or n == w for n, w in zip(shape[1:], wanted, strict=True)
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
