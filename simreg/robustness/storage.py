"""JSON files of results: written whole or not at all, with schema and package versions."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from simreg._checks import describe

SCHEMA_VERSION = 1
"""Version of the JSON layout that ``write_results`` writes; a reader refuses a newer one."""

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "foolbox",
    "simreg",
    "autoattack",
    "adversarial-robustness-toolbox",
)


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> Path:
    """Write results as JSON, whole or not at all.

    The file gets ``schema_version``, ``created`` (UTC) and ``versions`` beside the given entries. Objects with
    ``to_dict`` (sweeps, Boundary results, trade-offs), paths, tensors and NumPy values are converted; NaN becomes null,
    infinities become "inf" and "-inf", as JSON has neither.

    Args:
        path: File to write; missing folders are made, an existing file is replaced in one step.
        results: Entries by name.

    Returns:
        The path.

    Raises:
        TypeError: If a value cannot be written as JSON.
        ValueError: If ``results`` uses one of the three reserved names with another value type.
        OSError: If the file cannot be written.

    Example:
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = write_results(Path(folder.name) / "results.json", {"clean": 0.7, "median": math.inf})
        >>> read_results(path)["median"]
        inf
    """
    if not isinstance(results, Mapping):
        raise TypeError(f"results must be a dict of entries by name, got {describe(results)}.")
    path = Path(path)
    header = {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    text = json.dumps(_encode({**results, **header}, "results"), indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode() + b"\n")
    return path


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file of ``write_results``: plain data, with "inf" back as a float and null as None.

    Args:
        path: File to read.

    Returns:
        The entries; ``Sweep.from_dict`` and ``BoundaryResult.from_dict`` rebuild theirs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no results file, or written by a newer simreg.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable JSON ({error}): delete it and write it again.") from error
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ValueError(f"{path} has no schema_version: it was not written by simreg.robustness.write_results.")
    version = data["schema_version"]
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version!r}, this simreg reads up to {SCHEMA_VERSION}: update simreg."
        )
    return {str(name): _decode(value) for name, value in data.items()}


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide results; None for those not installed.

    Example:
        >>> {"python", "torch", "simreg"} <= set(versions())
        True
    """
    return {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}


def replace_file(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step: a reader sees the old file or the new one, never a part."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a source tree that was not installed knows its version itself
        return getattr(sys.modules.get(package), "__version__", None)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _encode(value: Any, where: str) -> Any:
    """``value`` in terms of JSON; ``where`` says in an error which entry it was."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # tensors, NumPy arrays and scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _encode(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_encode(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float):
        return None if math.isnan(value) else str(value) if math.isinf(value) else value
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(
        f"{where} is {describe(value)}, which JSON cannot hold. Convert it to numbers, text, lists or dicts."
    )


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _decode(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_decode(v) for v in value]
    return float(value) if value in ("inf", "-inf") else value
