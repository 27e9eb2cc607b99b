"""What every benchmark says of its machine, and how it writes its numbers."""

import argparse
import json
import math
import os
import pathlib

import jax


def machine() -> dict[str, object]:
    """Return the device, the CPU cores, the version of JAX and the load average of the last minute."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "cpu_cores": os.cpu_count(),
        "jax": jax.__version__,
        "load": load(),
    }


def load() -> float:
    """Return the load average of the last minute, NaN where the system has none: what else the machine was doing."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def one_line(about: dict[str, object]) -> str:
    """Return facts as one line, "device 1 x cpu, cpu_cores 2, ..."."""
    return ", ".join(
        f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in about.items()
    )


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", type=pathlib.Path, help="also write the numbers to this file")


def options(args: argparse.Namespace, *without: str) -> dict[str, object]:
    """Return the options of a run, for its JSON, but for --json and paths that the caller names."""
    return {key: value for key, value in vars(args).items() if key not in ("json", *without)}


def write_json(path: pathlib.Path | None, numbers: object) -> None:
    """Write numbers as JSON, with the folder that they go to; nothing if `path` is None."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(numbers, indent=2) + "\n")
