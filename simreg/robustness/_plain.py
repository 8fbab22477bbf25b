"""Results as plain data for JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def require(data: Mapping[str, Any], *names: str) -> list[Any]:
    """Values of ``names`` in ``data``; raises ``ValueError`` with the missing ones."""
    missing = [name for name in names if name not in data]
    if missing:
        raise ValueError(f"the result lacks {', '.join(missing)}; it has {', '.join(map(str, data)) or 'nothing'}.")
    return [data[name] for name in names]


def floats(values: Iterable[Any]) -> tuple[float, ...]:
    """Numbers back from JSON: None was NaN, "inf" an infinity."""
    return tuple(math.nan if value is None else float(value) for value in values)


def lists(value: Any) -> Any:
    """Tuples as lists, inside as well."""
    return [lists(item) for item in value] if isinstance(value, tuple) else value
