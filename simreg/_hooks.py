"""What the hooks of simreg have in common: inert copies, and removal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from torch.utils.hooks import RemovableHandle


def inert_copy() -> tuple[Any, ...]:
    """Result of ``__reduce__`` for a hook whose copies and pickles do nothing.

    ``nullcontext().__exit__`` takes any arguments and returns None, as hooks may, and needs no simreg to unpickle.
    """
    return getattr, (contextlib.nullcontext(), "__exit__")


def remove_hooks(handles: Iterable[RemovableHandle]) -> None:
    """Remove the hooks of these handles; those that are gone already do not matter."""
    for handle in handles:
        handle.remove()
