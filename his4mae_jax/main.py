r"""The `his4mae` command with flags in place of subcommands.

    python -m his4mae_jax.main --config=configs/betaseg.py --workdir=runs/betaseg

trains, segments, evaluates and draws the figures, as `his4mae all` does; --mode picks one stage. Settings are
overridden as --config.train.steps=1000 (`his4mae settings` lists all of them).
"""

import sys
from collections.abc import Sequence

from his4mae_jax.cli import config_file, process
from his4mae_jax.cli.arguments import Parser, add_run_arguments, run_command
from his4mae_jax.cli.stages import MODES, run

DESCRIPTION = "The his4mae command with flags in place of subcommands; `his4mae --help` says more of each mode."
__all__ = ("MODES", "cli", "parse", "run")


def parse(argv: Sequence[str]) -> process.Command:
    """Read the flags of a command line, without the program; `UserError` for bad ones."""
    words, overrides = config_file.split_overrides(argv)
    parser = Parser(prog="python -m his4mae_jax.main", description=DESCRIPTION)
    add_run_arguments(parser)
    parser.add_argument("--mode", choices=MODES, default="all", help="the stage to run (default: all)")
    arguments = parser.parse_args(words)
    return run_command(arguments.mode, arguments.config, arguments.workdir, overrides, "--help")


def cli() -> None:
    """Entry point of `python -m his4mae_jax.main`."""
    process.execute(lambda: parse(sys.argv[1:]))


if __name__ == "__main__":
    cli()
