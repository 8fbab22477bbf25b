"""The folder of a run: what is trained in it is written down, and another run is kept out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from simreg.data import ImageSplit
from simreg.robustness import read_results, write_results
from simreg.robustness._hashing import sha256_of


def claim_folder(out: Path, identity: Mapping[str, Any]) -> None:
    """Note in ``out`` what is run there, or check that it is the same as before.

    Args:
        out: Folder of the run; made if it is missing.
        identity: Everything that decides all results of the run: JSON data.

    Raises:
        ValueError: If the folder belongs to a run with other settings; the message names those that differ.
        OSError: If the folder cannot be written.
    """
    path = out / "run.json"
    if not path.exists():
        write_results(path, identity)
        return
    before = _flat(read_results(path))
    now = _flat(identity)
    changed = [
        f"{name} (was {before.get(name)!r}, now {now.get(name)!r})"
        for name in sorted({*before, *now} - {*_flat(_HEADER)})
        if before.get(name) != now.get(name) and not name.startswith("versions.")
    ]
    if changed:
        raise ValueError(
            f"--out {out} holds a run with other settings: {', '.join(changed)}. Give the same ones to go on with it, "
            "or choose another folder."
        )


def describe_data(split: ImageSplit) -> dict[str, Any]:
    """What results say of images."""
    return {
        "name": split.name,
        "source": split.source,
        "n": len(split.labels),
        "shape": list(split.images.shape[1:]),
        "classes": list(split.classes),
        "fingerprint": fingerprint(split.images, split.labels),
    }


def fingerprint(images: Tensor, labels: Tensor) -> str:
    """SHA-256 over images and labels, as 64 hexadecimal digits."""
    return sha256_of({"images": images, "labels": labels})


_HEADER = {"schema_version": 0, "created": ""}


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries by dotted name; tuples as lists, as JSON has them."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found
