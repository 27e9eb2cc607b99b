"""The page docs/settings.md.

`python -m his4mae_jax.settings.docs > docs/settings.md` writes the page anew.
"""

from collections.abc import Iterable
from typing import Any

from his4mae_jax.settings.build import SMALL
from his4mae_jax.settings.setting import Setting
from his4mae_jax.settings.table import TABLE

SECTIONS = {
    "": "The run",
    "data": "Volumes and samples",
    "data.phantom": "Synthetic cells",
    "model": "Network",
    "objective": "Objective",
    "teacher": "Teacher",
    "codebook": "Codebook",
    "sdae": "SdAE and SdAE-recon",
    "supervised": "Vanilla ViT and Segmenter",
    "vae": "VAE",
    "train": "Training",
    "segment": "Segmentation",
    "name": "Naming",
    "probe": "Few labels",
    "evaluate": "Evaluation",
    "report": "Page of a run",
    "view": "Viewers",
    "export": "Export",
    "compare": "Comparison of methods",
}

INTRODUCTION = """# Settings

This page is generated from the table in `his4mae_jax/settings/`; `python -m his4mae_jax.settings.docs >
docs/settings.md` writes it anew.

A configuration file changes what differs from the defaults, the paper's settings; `--config.<key>=<value>` on the
command line overrides both, as in `--config.train.steps=1000`. `get_small()` is a preset for minutes on a CPU; its
values are in the column "small" where they differ from the defaults. A value that a setting does not allow, alone or
together with the others, ends the run with one line before anything is written.

The last column says when a setting may change. A workdir belongs to one training: what is *fixed by the training*
cannot change in it. All other settings can, also when a training goes on: those of *one stage*, segmentation,
naming, evaluation, viewing, export or comparison, act when that stage runs next.
"""


def page() -> str:
    """The page docs/settings.md."""
    parts = [INTRODUCTION]
    for section, title in SECTIONS.items():
        settings = [s for s in TABLE.values() if s.section == section]
        small = any(s.key in SMALL for s in settings)
        name = f" (`{section}`)" if section else ""
        header = ["key", "default", *(["small"] if small else []), "meaning", "allowed", "may change"]
        rows = [header, ["---"] * len(header), *(_cells(s, small) for s in settings)]
        parts.append(f"## {title}{name}\n\n" + "\n".join(map(_row, rows)) + "\n")
    return "\n".join(parts)


def _cells(setting: Setting, small: bool) -> list[str]:
    preset = [_code(SMALL[setting.key]) if setting.key in SMALL else ""] if small else []
    return [
        f"`{setting.key}`", _code(setting.default), *preset, setting.help, setting.kind.rule, setting.scope.value,
    ]  # fmt: skip


def _code(value: Any) -> str:
    return f"`{value!r}`"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|").replace("*", r"\*") for cell in cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
