"""Parsing that the `his4mae` command shares with the flags of `his4mae_jax.main`."""

import argparse
import difflib
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from his4mae_jax.bucket.path import place
from his4mae_jax.cli import config_file
from his4mae_jax.cli.process import Command
from his4mae_jax.cli.stages import SAVED, run_in_process
from his4mae_jax.errors import UserError

WIDTH = 100  # characters of a line of help


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH)


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises a `UserError` of one line where argparse would print its usage and exit."""

    def __init__(self, **options: Any) -> None:
        options["description"] = textwrap.fill(options["description"], WIDTH)
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses as argparse does; raises `UserError` for an unknown argument, with the nearest known one."""
        arguments, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            options = [option for action in self._actions for option in action.option_strings]
            nearest = difflib.get_close_matches(word, options, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else "settings are given as --config.<key>=<value>"
            self.error(f"unknown argument {unknown[0]!r}; {hint}")
        return arguments, unknown


def add_run_arguments(parser: argparse.ArgumentParser, *, workdir: bool = True) -> None:
    """Add `--config` and `--workdir`, which every stage of a run takes."""
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="a shipped config (demo, betaseg, compare/table3, ...), or the path of one of your own; "
        "what follows a colon is its argument, as in saved:runs/demo/config.json",
    )
    parser.add_argument(
        "--workdir",
        metavar="FOLDER",
        help="folder of the run: checkpoints, labels, metrics, figures" + ("" if workdir else " (not needed)"),
    )
    parser.add_argument(
        "--config.KEY",
        dest="_overrides",
        metavar="VALUE",
        help="override one setting, as in --config.train.steps=1000; may be given several times",
    )


def run_command(mode: str, config: str | None, workdir: str | None, overrides: Sequence[str], help: str) -> Command:
    """Load a config with its overrides; the command that runs a mode with it.

    Args:
      mode: one of `stages.MODES`.
      config, workdir: as given on the command line; None: not given. Modes of `stages.SAVED` need no config.
      overrides: as `config_file.split_overrides` returns them.
      help: the command that prints help, for messages.

    Raises:
      UserError: the config or the workdir is missing, or the config cannot be loaded.
    """
    if mode in SAVED and workdir and not config:
        config = _saved(workdir)
    needed = {"--config=CONFIG": config, "--workdir=FOLDER": workdir or (mode == "fetch" and "none")}
    missing = [flag for flag, value in needed.items() if not value]
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        raise UserError(f"{' and '.join(missing)} {verb} needed; see {help}")
    settings = config_file.load(config)
    config_file.override(settings, overrides)
    return Command(lambda: run_in_process(settings, workdir, mode), workdir or settings.data.root)


def _saved(workdir: str) -> str:
    """The config that the training in a workdir saved, as `--config` takes it."""
    path = place(workdir) / "config.json"
    if not path.exists():
        raise UserError(f"{path}: no such file, so no training; train in this workdir first, or name another")
    return f"saved:{path}"
