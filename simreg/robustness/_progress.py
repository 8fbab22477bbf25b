"""One way to show progress: a tqdm bar on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

_LINES = 10  # plain lines of a long loop
_SILENT_SECONDS = 20.0  # a slow loop says so before its first tenth is done
_QUIET_SECONDS = 1.0  # loops shorter than this print nothing, lines never come faster


def progress(iterable: Iterable[T], *, description: str, total: int | None = None, enabled: bool = True) -> Iterator[T]:
    """Go through ``iterable`` while telling the user how far it is, on standard error.

    Args:
        iterable: What to go through; nothing is consumed before the first ``next``.
        description: Few words in front of the bar or of each line.
        total: Number of items, where ``len(iterable)`` does not say it.
        enabled: ``False`` yields the items and prints nothing.

    Returns:
        An iterator over the same items.

    Example:
        >>> [n * n for n in progress(range(3), description="squares", enabled=False)]
        [0, 1, 4]
    """
    if not enabled:
        return iter(iterable)
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass  # tqdm is optional: plain lines do
        else:
            return iter(tqdm(iterable, desc=description, total=total, leave=False, file=sys.stderr))
    return _plain_lines(iterable, description, total)


def _plain_lines(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    """Yield the items; print a line at each tenth of ``total``, or every ten seconds without a total."""
    start = last = time.monotonic()
    tenth = 0
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        reached = done * _LINES // total if total else int((now - start) // 10)
        if (reached > tenth and now - last >= _QUIET_SECONDS) or now - last >= _SILENT_SECONDS:
            tenth, last = reached, now
            share = f" {100 * done // total:3d} %" if total else ""
            count = f"{done}/{total}" if total else f"{done}"
            left = f", about {(now - start) * (total - done) / done:.0f} s left" if total and done < total else ""
            print(f"{description}:{share} ({count}, {now - start:.0f} s{left})", file=sys.stderr, flush=True)
