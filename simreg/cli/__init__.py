"""The ``simreg`` command: evaluate a model, choose a regularizer's strength, compare defences, make a report."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import traceback
from collections.abc import Sequence

from simreg import __version__

COMMANDS = ("evaluate", "select", "compare", "report")
"""Subcommands, one module of this package each: ``add_parser(subparsers)`` describes it, ``run(args)`` does it."""


_OPTIONS = {
    "name": "--data",
    "validation": "--validation-images",
    "peak_rate": "--rate",
    **{name: f"--{name.replace('_', '-')}" for name in (
        "alpha", "batch_size", "budget_seconds", "checkpoint", "epochs", "epsilon", "layers", "mean", "methods",
        "minimum_clean_ratio", "only", "out", "pairs", "pool_size", "samples", "seed", "seeds", "size", "std",
        "threshold", "width",
    )},
}  # fmt: skip
"""Options whose value the functions call by another name, or without the dashes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 2 a mistake that the message explains, 130 interrupted (as shells have it for SIGINT).
    """
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("simreg: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, ImportError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"simreg: error: {in_options(str(error))}", file=sys.stderr)
        return 2


def in_options(message: str) -> str:
    """An error of a function as one of the command line: the argument that it begins with becomes its option.

    Example:
        >>> in_options("name='digit' is neither a folder nor one of cifar10.")
        "--data 'digit' is neither a folder nor one of cifar10."
        >>> in_options("epochs must be at least 0, got -1.")
        '--epochs must be at least 0, got -1.'
    """
    found = re.match(r"(\w+)(=|(?= must\b| has no effect\b| names\b|: ))", message)
    if not found or found[1] not in _OPTIONS:
        return message
    return _OPTIONS[found[1]] + (" " if found[2] else "") + message[found.end() :]


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    epilog = "Exit status: 0 done, 2 a mistake that the message explains, 130 interrupted."
    parser = argparse.ArgumentParser(prog="simreg", description=__doc__, epilog=epilog)
    parser.add_argument("--version", action="version", version=f"simreg {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"simreg.cli.{name}").add_parser(subparsers)
    return parser
