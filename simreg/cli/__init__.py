"""The ``simreg`` command: evaluate a model, choose a regularizer's strength, compare defences, make a report."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from simreg import __version__

COMMANDS = ("evaluate", "select", "compare", "report")
"""Subcommands, one module of this package each: ``add_parser(subparsers)`` describes it, ``run(args)`` does it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 interrupted, 2 a mistake that the message explains."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print("simreg: stopped; the same command goes on from here.", file=sys.stderr)
        return 1
    except (ValueError, TypeError, ImportError, OSError) as error:
        if args.debug:
            traceback.print_exc()
        print(f"simreg: error: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="simreg", description=__doc__)
    parser.add_argument("--version", action="version", version=f"simreg {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"simreg.cli.{name}").add_parser(subparsers)
    return parser
