"""Config files: shipped ones by name, others by path."""

import difflib
import importlib.util
import pathlib
import traceback
import types

import ml_collections

from his4mae_jax.errors import UserError
from his4mae_jax.settings import explain_unknown_key

_PACKAGE = pathlib.Path(__file__).parents[1]
# In a wheel the configs lie in the package (setup.py); in a clone, and installed from one with -e, beside it.
SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def shipped() -> list[str]:
    """Names of the shipped configs, such as "demo" and "compare/table3"."""
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.rglob("*.py"))


def find(spec: str) -> tuple[pathlib.Path, str | None]:
    """The file that a config's name or path stands for, and the argument behind its colon.

    Args:
      spec: such as "demo", "compare/table3", "saved:runs/demo/config.json", "configs/demo.py" or "../mine.py:2".

    Raises:
      UserError: there is neither a shipped config of that name nor a file.
    """
    name, colon, argument = spec.partition(":")
    names = shipped()
    path = SHIPPED / f"{name}.py" if name in names else pathlib.Path(name)
    if not path.is_file():
        stem = name.removesuffix(".py").removeprefix("configs/")
        nearest = difflib.get_close_matches(stem, names, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        kind = "such file" if name.endswith(".py") or "/" in name else "config of this name"
        raise UserError(f"config {spec}: no {kind}; {hint}give a file, or a shipped one of {', '.join(names)}")
    return path, argument if colon else None


def load(spec: str) -> ml_collections.ConfigDict:
    """Run `get_config` of a config; the result is locked.

    Args:
      spec: as for `find`.

    Raises:
      UserError: there is no such config, or its file fails, in one line that names the place.
    """
    path, argument = find(spec)
    try:
        get_config = getattr(_module(path), "get_config", None)
        config = get_config and (get_config() if argument is None else get_config(argument))
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        raise UserError(explain_unknown_key(error) or f"{path}{_line(error, path)}: {reason}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"{path}: give it a function get_config() that returns its config, as {SHIPPED}/demo.py has it")
    return config.lock()


def _module(path: pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("his4mae_config", path)
    if spec is None:
        raise UserError(f"{path}: a config is a Python file; give one whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _line(error: Exception, path: pathlib.Path) -> str:
    """The line of a config file at which it failed, for a message; empty where it is not known."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.absolute())
    ]
    return f", line {lines[-1]}" if lines else ""
