"""Warnings that point at the user's line instead of ours."""

from __future__ import annotations

import sys
import warnings


def warn(message: str) -> None:
    """Emit a ``UserWarning`` attributed to the first caller outside this package and torch, which calls its modules."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("simreg.", "torch.")):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
