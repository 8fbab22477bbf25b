"""What hooks of simreg leave behind in copies of a model."""

from __future__ import annotations

import contextlib
from typing import Any


def inert_copy() -> tuple[Any, ...]:
    """Result of ``__reduce__`` for a hook whose copies and pickles do nothing.

    ``nullcontext().__exit__`` takes any arguments and returns None, as hooks may, and needs no simreg to unpickle.
    """
    return getattr, (contextlib.nullcontext(), "__exit__")
