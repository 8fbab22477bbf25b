"""Results files as a report takes them: found, read, checked, and told apart by their labels."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from simreg.robustness.storage import read_results

Kind = Literal["evaluation", "comparison", "selection"]
KINDS: tuple[Kind, ...] = ("evaluation", "comparison", "selection")
_CONTENT = {"evaluation": "measurements", "comparison": "methods", "selection": "points"}
_FILE = "results.json"


@dataclass(frozen=True)
class Run:
    """One results file.

    Args:
        kind: "evaluation", "comparison" or "selection".
        label: Name in tables and figures, unlike that of any other run of the report.
        data: What the file holds.
        source: Folder and name of the file.
        digest: First 16 hexadecimal digits of the file's SHA-256.
    """

    kind: Kind
    label: str
    data: Mapping[str, Any] = field(repr=False)
    source: str = ""
    digest: str = ""


def load_runs(paths: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Read results files for a report.

    Args:
        paths: Files of ``simreg evaluate``, ``compare`` or ``select``, or folders that hold their ``results.json``.

    Returns:
        One run per path, in order; equal names get a number.

    Raises:
        FileNotFoundError: If a file is missing, or a folder holds no ``results.json``.
        ValueError: If there is no path, one is given twice, or a file holds none of the three kinds of results.

    Example:
        >>> import tempfile
        >>> from simreg.robustness import write_results
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_results(Path(folder) / "results.json", {"kind": "evaluation", "measurements": {}})
        ...     load_runs([folder])[0].kind
        'evaluation'
    """
    if not paths:
        raise ValueError("runs is empty: give at least one results.json, or a folder that holds one.")
    files = [_find(Path(path)) for path in paths]
    for file in files:
        if files.count(file) > 1:
            raise ValueError(f"{file} is given twice: name each run once.")
    return distinct([_read(file) for file in files])


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The same runs, with labels that differ between runs of one kind: equal ones get a number."""
    taken: dict[Kind, set[str]] = {kind: set() for kind in KINDS}
    renamed = []
    for run in runs:
        label = unlike(run.label, taken[run.kind])
        taken[run.kind].add(label)
        renamed.append(Run(run.kind, label, run.data, run.source, run.digest))
    return renamed


def unlike(label: str, taken: set[str]) -> str:
    """``label``, or with the first number that makes it unlike those in ``taken``."""
    number, name = 1, label
    while name in taken:
        number += 1
        name = f"{label} ({number})"
    return name


def entries(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The mapping ``data[name]``, an empty one if it is missing or something else."""
    value = data.get(name)
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def items(data: Mapping[str, Any], name: str) -> list[Any]:
    """The list ``data[name]``, an empty one if it is missing or something else."""
    value = data.get(name)
    return list(value) if isinstance(value, (list, tuple)) else []


def words(value: Any, default: str = "") -> str:
    r"""Text on one line without control characters; ``default`` for None and empty text.

    Example:
        >>> words("two\nlines"), words(None, "unknown")
        ('two lines', 'unknown')
    """
    text = "" if value is None else str(value)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or default


def _find(path: Path) -> Path:
    if path.is_dir():
        if not (path / _FILE).is_file():
            inside = sorted(child.parent.name for child in path.glob(f"*/{_FILE}"))
            hint = f" Its folders {', '.join(inside[:5])} do: name them." if inside else ""
            raise FileNotFoundError(f"{path} holds no {_FILE}.{hint}")
        return path / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a {_FILE}, or a folder that holds one.")
    return path


def _read(file: Path) -> Run:
    _check_json(file)
    data = read_results(file)
    kind = data.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{file} has kind={kind!r}, wanted one of {', '.join(map(repr, KINDS))}.")
    content = data.get(_CONTENT[kind])
    if not isinstance(content, (list, dict)):
        raise ValueError(f"{file} lacks {_CONTENT[kind]!r}: it is no whole result of kind {kind!r}.")
    source = "/".join(file.resolve().parts[-2:])
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return Run(kind, _label(kind, data, file), data, source, digest)


def _check_json(file: Path) -> None:
    """Refuse what is no file of results at all, such as a model."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is no results file: give the folder of a run, or the {_FILE} that evaluate, compare or select "
            "wrote there."
        ) from error
    if not isinstance(found, dict) or "schema_version" not in found:
        raise ValueError(
            f"{file} is JSON, but no results of evaluate, compare or select: give the folder of a run, or its {_FILE}."
        )


def machines(data: Mapping[str, Any]) -> list[str]:
    """The machines that a file's times come from.

    Example:
        >>> machines({"hardware": "A CPU, 2 cores, 1 threads"})
        ['A CPU, 2 cores, 1 thread']
    """
    found = items(data, "machines") or [data.get("hardware")]
    for method in entries(data, "methods").values():
        for net in items(method, "runs") if isinstance(method, Mapping) else ():
            measured = entries(net, "measurements").values() if isinstance(net, Mapping) else ()
            found += [name for entry in measured if isinstance(entry, Mapping) for name in items(entry, "machines")]
    told = [_ONE.sub(r"1 \1", words(name)) for name in found]
    return list(dict.fromkeys(name for name in told if name))


def suite_of(data: Mapping[str, Any]) -> str:
    """The suite, and how much of it was run where ``--only`` left some out.

    Example:
        >>> suite_of({"suite": "quick", "measurements": {"clean": {}}, "left_out": ["boundary"]})
        'quick, 1 of 2 measurements'
    """
    suite, left = words(data.get("suite")), len(items(data, "left_out"))
    run = len(entries(data, "measurements"))
    return f"{suite}, {run} of {run + left} measurements" if suite and left else suite


_ONE = re.compile(r"\b1 (core|thread)s\b")


def _label(kind: str, data: Mapping[str, Any], file: Path) -> str:
    if kind == "evaluation":
        return words(entries(data, "model").get("name")) or words(file.resolve().parent.name, "model")
    return words(entries(data, "data").get("name"), "unnamed data")
