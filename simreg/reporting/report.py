"""The report of one or several results files, as text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util

from simreg.reporting.build import build_card, build_document
from simreg.reporting.html import render_page
from simreg.reporting.judgements import judged
from simreg.reporting.markdown import render_markdown
from simreg.reporting.runs import load_runs


@dataclass(frozen=True)
class Report:
    """A page and a model card of the same runs.

    Args:
        page: HTML, whole and self-contained.
        card: Markdown.
        note: What was left out of the page, and how to get it; empty if nothing was.
    """

    page: str
    card: str
    note: str = ""


def make_report(
    paths: Sequence[str | os.PathLike[str]], *, title: str | None = None, reference: str | None = None
) -> Report:
    """Make the report of results files; the same files give the same bytes.

    Several evaluations stand side by side in the same tables and figures; comparisons and selections have sections of
    their own. Without matplotlib the page has the numbers of the figures instead, and says so.

    Args:
        paths: Files of ``simreg evaluate``, ``compare`` or ``select``, or folders that hold their ``results.json``.
        title: Title; None says what the runs are.
        reference: Name of the unregularized model among the evaluations, against which the others are weighed (R0/U0,
            RD/UD); None leaves the trade-off out.

    Returns:
        Page and card as text.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file holds no results, or ``reference`` is none of the evaluated models.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from simreg.robustness import Sweep, write_results
        >>> sweep = Sweep("clean", (0.0,), (0.7,), n=1000).to_dict()
        >>> clean = {"status": "ok", "type": "sweep", "threat": "clean", "result": sweep}
        >>> results = {"kind": "evaluation", "model": {"name": "plain"}, "measurements": {"clean": clean}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = make_report([write_results(Path(folder) / "results.json", results)])
        >>> "70.0" in report.page, report.card.splitlines()[0]
        (True, '# Robustness of plain')
    """
    runs = [judged(run) for run in load_runs(paths)]
    document = build_document(runs, title=title, reference=reference)
    draws = util.find_spec("matplotlib") is not None
    note = "" if draws else 'figures were left out: matplotlib is missing (pip install "simreg[plots]")'
    page = render_page(document, figures=draws)
    return Report(page, render_markdown(build_card(runs, title=title, reference=reference)), note)
