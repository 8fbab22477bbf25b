"""``simreg report``: one page, and a model card, of one or several results files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from simreg.reporting import make_report
from simreg.robustness.storage import replace_file

_PAGE, _CARD = "report.html", "model-card.md"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "report",
        help="make a page and a model card of results",
        description="Make one HTML page, with tables and figures and nothing to load, and a model card in Markdown, of "
        "the results of evaluate, compare and select. Several evaluations stand side by side.",
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run, or its results.json")
    where = "beside the results of a single run, in the current folder for several"
    add("--out", type=Path, metavar="PAGE", help=f"page to write [{_PAGE} {where}; none where only --card is given]")
    add("--card", type=Path, metavar="FILE", help=f"model card to write [{_CARD} beside a page without --out]")
    add("--title", help="title of both [what the runs are]")
    add("--reference", metavar="NAME", help="name of the unregularized model, against which the others are weighed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the report and say where it is."""
    report = make_report(args.runs, title=args.title, reference=args.reference)
    page, card = outputs(args.runs, args.out, args.card)
    for path, text in ((page, report.page), (card, report.card)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode())
            print(f"written: {path}")
    if report.note and page is not None:
        print(f"note: {report.note}")
    return 0


def outputs(runs: Sequence[Path], page: Path | None, card: Path | None) -> tuple[Path | None, Path | None]:
    """Where page and card go; None for what is not written.

    Example:
        >>> page, card = outputs([Path("a"), Path("b")], None, None)
        >>> str(page), str(card), outputs([Path("a")], None, Path("card.md"))[0]
        ('report.html', 'model-card.md', None)
    """
    if page is not None or card is not None:
        return page, card
    first = runs[0]
    folder = Path() if len(runs) > 1 else first if first.is_dir() else first.parent
    return folder / _PAGE, folder / _CARD
