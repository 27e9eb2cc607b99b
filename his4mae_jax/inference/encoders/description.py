"""The YAML file that says what a frozen encoder in an ONNX file takes and gives."""

import dataclasses
import difflib
import hashlib
import json
import mmap
import os
import pathlib
import re
from typing import Any

from his4mae_jax.errors import UserError
from his4mae_jax.files import read_yaml
from his4mae_jax.settings.kinds import Flag, Kind, Number, Several, Text, Whole

_REMEDY = "docs/encoders.md has an example"
# Key by key what the file may hold. The first six have to be there.
KEYS: dict[str, Kind] = {
    "file": Text("the path of an ONNX file, from the folder of this one"),
    "size": Whole(1, 8192, "pixels"),
    "patch": Whole(1, 1024, "pixels"),
    "channels": Whole(1, 64),
    "mean": Several("a number for each channel", Number(-1e6, 1e6), range(1, 65)),
    "std": Several("a number above 0 for each channel", Number(0, 1e6, low_open=True), range(1, 65)),
    "output": Text("the name of an output of the ONNX file"),
    "prefix_tokens": Whole(0, 4096),
    "voxels_per_patch": Whole(1, 1024, "voxels"),
    "unit_length": Flag(),
    "voxel_size_nm": Number(1e-3, 1e6, "nm"),
}
NEEDED = ("file", "size", "patch", "channels", "mean", "std")
# In a file whose weights lie beside it, each such tensor names its file: ONNX's StringStringEntryProto.
_EXTERNAL = re.compile(rb"\x0a\x08location\x12(?P<length>[\x01-\x7f])")


@dataclasses.dataclass(frozen=True)
class Description:
    """A frozen encoder: images of `size` x `size` pixels to one token for each patch.

    Attributes:
      path: of the YAML file.
      onnx: path of the ONNX file.
      digest: SHA-256 of the ONNX file, of the weights beside it and of what the YAML file says.
      weight_bytes: of these files.
      size: side of an image in pixels.
      patch: side of a patch in pixels.
      channels: of an image; the grey one is repeated.
      mean, std: of each channel: images in [0, 1] are shifted and scaled by them.
      output: name of the output with the tokens; "": the only one.
      prefix_tokens: tokens before those of the patches (cls, registers), which are dropped.
      voxels_per_patch: voxels along each side that a patch covers: images are resized to that.
      unit_length: whether tokens are scaled to length 1.
      voxel_size_nm: voxels have to have this size within slices; None: any.
    """

    path: pathlib.Path
    onnx: pathlib.Path
    digest: str
    weight_bytes: int
    size: int
    patch: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    output: str = ""
    prefix_tokens: int = 0
    voxels_per_patch: int = 0
    unit_length: bool = False
    voxel_size_nm: float | None = None

    @property
    def tokens(self) -> int:
        """Patches along each side of an image."""
        return self.size // self.patch

    @property
    def fov(self) -> int:
        """Side of a field of view in voxels."""
        return self.tokens * self.voxels_per_patch


def read(path: str | os.PathLike) -> Description:
    """Reads the YAML file of an encoder.

    Raises:
      UserError: one line that says what is wrong where.
    """
    path = pathlib.Path(path)
    content = read_yaml(path, missing="config key segment.encoder_file names it", remedy=_REMEDY)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no keys; {_REMEDY}")
    values = _checked(path, content)
    onnx = path.parent / values.pop("file")
    if not onnx.is_file():
        raise UserError(f"{path}: file: there is no file {onnx}; give the path of the ONNX file from the YAML's folder")
    values.setdefault("voxels_per_patch", values["patch"])
    what = json.dumps(values, sort_keys=True)
    return Description(path, onnx, *_digest(onnx, what), **values)


def _checked(path: pathlib.Path, content: dict[Any, Any]) -> dict[str, Any]:
    """The values by key, each by itself and then together."""
    for key, value in content.items():
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KEYS)}"
            raise UserError(f"{path}: there is no key {key}; {hint}")
        if not KEYS[key].allows(value):
            raise UserError(f"{path}: {key} is {value!r}, but must be {KEYS[key].rule}")
    missing = [key for key in NEEDED if key not in content]
    if missing:
        raise UserError(f"{path}: without {', '.join(missing)}; {_REMEDY}")
    if content["size"] % content["patch"]:
        raise UserError(
            f"{path}: size is {content['size']}, but must be a multiple of patch, {content['patch']}, such as "
            f"{max(content['size'] // content['patch'], 1) * content['patch']}"
        )
    for key in ("mean", "std"):
        if len(content[key]) != content["channels"]:
            raise UserError(
                f"{path}: {key} has {len(content[key])} numbers, but there are {content['channels']} channels; give a "
                "number for each"
            )
    return {key: tuple(map(float, value)) if key in ("mean", "std") else value for key, value in content.items()}


def _digest(onnx: pathlib.Path, what: str) -> tuple[str, int]:
    """A hash of an ONNX file, of the files of weights that it names, and of `what`; and the bytes of these files."""
    digest, size = hashlib.sha256(what.encode()), onnx.stat().st_size
    try:
        with open(onnx, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
            for name in _external(file):
                with open(onnx.parent / name, "rb") as weights:
                    digest.update(name.encode() + hashlib.file_digest(weights, "sha256").digest())
                size += (onnx.parent / name).stat().st_size
    except OSError as error:
        raise UserError(f"{error.filename or onnx}: cannot be read ({error.strerror}); check the file") from error
    return digest.hexdigest(), size


def _external(file: Any) -> list[str]:
    """Names of the files of weights beside an ONNX file that is open."""
    if not os.fstat(file.fileno()).st_size:
        return []
    names = set()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in _EXTERNAL.finditer(content):
            name = content[match.end() : match.end() + match["length"][0]]
            if name.isascii() and name.decode().isprintable():
                names.add(name.decode())
    return sorted(names)
