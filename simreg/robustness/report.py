"""Tables of results: aligned plain text, and markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from simreg._checks import check_choice
from simreg.robustness.results import BoundaryResult, Sweep

Style = Literal["plain", "markdown"]


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None, *, style: Style = "plain") -> str:
    """Rows as an aligned table: the first column to the left, the others to the right.

    Args:
        rows: One mapping per row, cell by column name; a missing cell or None shows as "-".
        columns: Names and order of the columns; None takes all, in the order in which they first appear.
        style: "plain" or "markdown".

    Returns:
        The table, without a newline at the end.

    Raises:
        ValueError: If ``style`` is unknown, or no row has one of ``columns``.

    Example:
        >>> print(table([{"model": "plain", "clean": 0.669}, {"model": "regularized", "clean": 0.623}]))
        model        clean
        plain        0.669
        regularized  0.623
    """
    check_choice("style", style, ("plain", "markdown"))
    known = list(dict.fromkeys(name for row in rows for name in row))
    names = known if columns is None else list(columns)
    unknown = [name for name in names if rows and name not in known]
    if unknown:
        raise ValueError(f"columns {unknown} are in no row. The rows have {known}.")
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    aligned = [
        [cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    if style == "plain":
        return "\n".join("  ".join(line).rstrip() for line in aligned)
    rule = ["-" * w if i == 0 else "-" * max(w - 1, 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]])


def summary_row(
    label: str,
    *,
    clean: float,
    n: int,
    sweeps: Sequence[Sweep] = (),
    boundary: BoundaryResult | None = None,
    reference_clean: float | None = None,
) -> dict[str, str]:
    """One model's row for ``table``: clean accuracy, R0/U0, each sweep at its largest epsilon, Boundary distance.

    Accuracies are in percent. The Boundary distance is the median squared L2 per pixel in units of 1e-3, always with
    the number of images and of failed starts.

    Args:
        label: Name of the model.
        clean: Clean accuracy in [0, 1].
        n: Number of images behind ``clean``.
        sweeps: Sweeps of this model.
        boundary: Boundary Attack result of this model.
        reference_clean: Clean accuracy U0 of the unregularized model; None shows "-".

    Returns:
        Cells by column name.

    Example:
        >>> sweep = Sweep("gaussian", (0.0, 0.1), (0.63, 0.45), n=2000, seed=0)
        >>> summary_row("regularized", clean=0.63, n=10000, sweeps=[sweep], reference_clean=0.70)
        {'model': 'regularized', 'clean': '63.0', 'n': '10000', 'R0/U0': '0.90', 'gaussian@0.1': '45.0'}
    """
    row = {"model": label, "clean": f"{100 * clean:.1f}", "n": str(n)}
    row["R0/U0"] = f"{clean / reference_clean:.2f}" if reference_clean else "-"
    for sweep in sweeps:
        epsilon = max(sweep.epsilons)
        row[f"{sweep.name}@{epsilon:.4g}"] = f"{100 * sweep.at(epsilon):.1f}"
    if boundary is not None:
        median = f"{1000 * boundary.median:.2f}" if math.isfinite(boundary.median) else "inf"
        other = boundary.failures - boundary.failed_starts
        lost = f", lost {other}" if other else ""
        row["boundary x1e-3"] = f"{median} (n {boundary.n}, failed {boundary.failed_starts}{lost})"
    return row


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", " ").replace("|", "/")
