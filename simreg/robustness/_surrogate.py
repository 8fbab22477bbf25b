"""The surrogate: a model that attacks are made on, kept in a file with its name and fingerprint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from simreg._checks import describe, warn
from simreg.robustness._hashing import sha256_of
from simreg.robustness.classifier import Classifier, as_classifier
from simreg.robustness.storage import replace_file

_MARK = "simreg_surrogate"  # key of our entry in a safetensors file's metadata
_FORMAT = 1

M = TypeVar("M", bound=nn.Module | Classifier)


class Surrogate:
    """The model whose gradient a transferred attack follows, with a name and a fingerprint that results record.

    Args:
        model: Trained module on images in [0, 1], or a ``Classifier`` around one with its normalisation.
        name: Name for results.
        info: What decided the weights (data set, epochs, seed, ...): JSON data.

    Raises:
        TypeError: If ``model`` holds no module, or ``info`` is no JSON data.

    Example:
        >>> surrogate = Surrogate(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), name="linear")
        >>> len(surrogate.fingerprint)
        64
    """

    def __init__(self, model: nn.Module | Classifier, *, name: str, info: Mapping[str, Any] | None = None) -> None:
        self.classifier = as_classifier(model)
        self.module = _module_of(self.classifier)
        self.name = name
        self.info = _json_copy(info or {})

    @property
    def fingerprint(self) -> str:
        """SHA-256 over weights, buffers and normalisation, as 64 hexadecimal digits."""
        return weights_fingerprint(self.classifier)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the weights, with name, info and fingerprint, as a safetensors file; whole or not at all."""
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in self.module.state_dict().items()}
        record = {"format": _FORMAT, "name": self.name, "info": self.info, "fingerprint": self.fingerprint}
        content = _safetensors().save(tensors, metadata={_MARK: json.dumps(record)})
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)

    @classmethod
    def cached(
        cls,
        path: str | os.PathLike[str],
        build: Callable[[], M],
        train: Callable[[M], object],
        *,
        name: str,
        info: Mapping[str, Any] | None = None,
    ) -> Surrogate:
        """The surrogate kept in ``path``; built, trained and saved there if it is not.

        A file is used only if name, info, architecture and fingerprint all agree. Otherwise a warning says why and the
        surrogate is trained anew; a damaged file is kept beside it as ``<path>.damaged``.

        Args:
            path: The safetensors file.
            build: Makes the untrained module, or the ``Classifier`` around it.
            train: Trains what ``build`` made, in place.
            name: Name for results.
            info: Everything that decides the weights (data set, epochs, seed, ...): JSON data.

        Returns:
            The surrogate.

        Raises:
            ImportError: If safetensors is missing.
            ValueError: If the file is a safetensors file but no surrogate, so that nothing of yours is replaced.

        Example:
            >>> import tempfile
            >>> folder = tempfile.TemporaryDirectory()
            >>> build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
            >>> train = lambda model: print("training")
            >>> first = Surrogate.cached(folder.name + "/linear.safetensors", build, train, name="linear")
            training
            >>> second = Surrogate.cached(folder.name + "/linear.safetensors", build, train, name="linear")
            >>> first.fingerprint == second.fingerprint
            True
        """
        path = Path(path)
        _safetensors()  # a missing package shows before the training, not after
        model = build()
        surrogate = cls(model, name=name, info=info)
        if path.exists():
            reason = surrogate._load(path)
            if reason is None:
                return surrogate
            warn(f"the surrogate in {path} {reason}: it is trained again.")
            model = build()  # a file that failed half-way may have left weights behind
            surrogate = cls(model, name=name, info=info)
        train(model)
        surrogate.save(path)
        return surrogate

    def _load(self, path: Path) -> str | None:
        """Load weights from ``path``; returns None, or in words why the file must not be used."""
        safetensors = _safetensors()
        content = path.read_bytes()
        try:
            tensors = safetensors.load(content)
            record = _record(content)
        except Exception as error:  # safetensors has its own error type, broken headers raise others
            path.replace(path.with_name(f"{path.name}.damaged"))
            return f"is damaged ({error})"
        if record is None:
            raise ValueError(f"{path} is not a surrogate saved by simreg. Choose another path, or remove the file.")
        for key, wanted in (("format", _FORMAT), ("name", self.name), ("info", self.info)):
            if record.get(key) != wanted:
                return f"has {key} {record.get(key)!r} instead of {wanted!r}"
        shapes = {k: (v.shape, v.dtype) for k, v in self.module.state_dict().items()}
        if shapes != {k: (v.shape, v.dtype) for k, v in tensors.items()}:
            return "belongs to another architecture"
        self.module.load_state_dict(tensors)
        if self.fingerprint != record.get("fingerprint"):
            return "does not match its fingerprint"
        return None


def weights_fingerprint(classifier: Classifier) -> str:
    """SHA-256 over weights, buffers and normalisation, as 64 hexadecimal digits; raises TypeError without a module."""
    return sha256_of(_module_of(classifier).state_dict(), f"{classifier.mean} {classifier.std}")


def _module_of(classifier: Classifier) -> nn.Module:
    if isinstance(classifier.model, nn.Module):
        return classifier.model
    raise TypeError(f"a surrogate must be an nn.Module or a Classifier around one, got {describe(classifier.model)}.")


def _json_copy(info: Mapping[str, Any]) -> dict[str, Any]:
    """``info`` as it comes back from JSON, so that it compares equal to a stored one."""
    try:
        return dict(json.loads(json.dumps(dict(info), sort_keys=True)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"info must be a dict of numbers, text, lists and dicts ({error}).") from None


def _record(content: bytes) -> dict[str, Any] | None:
    """Our entry in the header of a safetensors file: 8 bytes of length, then JSON. None if it has none."""
    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return dict(json.loads(metadata[_MARK])) if _MARK in metadata else None


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError('keeping a surrogate needs safetensors: pip install "simreg[examples]"') from error
    return safetensors.torch
