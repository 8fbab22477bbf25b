"""``simreg report``: one page, and a model card, of one or several results files."""

from __future__ import annotations

import argparse
from pathlib import Path

from simreg.reporting import make_report
from simreg.robustness.storage import replace_file


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "report",
        help="make a page and a model card of results",
        description="Make one HTML page, with tables and figures and nothing to load, and a model card in Markdown, of "
        "the results of evaluate, compare and select. Several evaluations stand side by side.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a results.json, or a folder that holds one")
    add("--out", type=Path, metavar="PAGE", help="page to write [report.html, unless only a card is asked for]")
    add("--card", type=Path, metavar="FILE", help="model card to write, in Markdown")
    add("--title", help="title of both [what the runs are]")
    add("--reference", metavar="NAME", help="name of the unregularized model, against which the others are weighed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the report and say where it is."""
    report = make_report(args.runs, title=args.title, reference=args.reference)
    out = args.out or (None if args.card else Path("report.html"))
    for path, text in ((out, report.page), (args.card, report.card)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode())
            print(f"written: {path}")
    if report.note and out is not None:
        print(f"note: {report.note}")
    return 0
