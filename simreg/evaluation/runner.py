"""Running a suite in parts: each is kept as soon as it is measured, so that a stopped run goes on where it was."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from simreg._checks import describe, warn
from simreg.evaluation.hardware import hardware
from simreg.evaluation.identity import fingerprint
from simreg.evaluation.memory import fitting_batch
from simreg.evaluation.suites import RESULTS, Measurement, Result, Subject, Suite
from simreg.robustness import read_results, write_results
from simreg.robustness._progress import progress as show_progress
from simreg.robustness.classifier import batches, check_evaluation_set
from simreg.robustness.storage import versions

T = TypeVar("T")

_TICK = 100  # forward passes between two movements of the progress bar
_GPU_CHUNKS = 10  # chunks between two stops on a GPU, which small ones leave idle


def run_suite(
    subject: Subject,
    suite: Suite,
    *,
    out: str | Path,
    model_name: str = "model",
    batch_size: int | None = None,
    progress: bool = True,
    on_result: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure one model with every attack of a suite, in parts that are kept in ``out``.

    Killed and called again with the same arguments, it goes on with the next part: nothing is lost or counted twice.
    A part counts only for the model (weights, answers and gradients), images, seed, surrogate, budgets and version of
    simreg that it was measured with. Results do not depend on ``batch_size``, but for the Boundary Attack's, to the
    extent that `boundary_attack` says, and those of models that are random at inference: their parts count only for the
    ``batch_size`` they were measured with. A measurement that cannot be made becomes an entry
    ``{"status": "not run", "reason": ...}``.

    Args:
        subject: The model, the images, and what attacks may use; each attack takes the first so many images.
        suite: From `build_suite`, or one of your own.
        out: Folder for the parts.
        model_name: Name shown with the progress.
        batch_size: Images per call of the model, at first: half of it is tried after each lack of memory. None
            takes what fits into half of the free memory: at most 1024 on a GPU, 128 elsewhere and for a model that is
            random at inference.
        progress: Show progress and the time left on standard error.
        on_result: Called with the entries so far, whenever one is complete.

    Returns:
        Entries by key, ``{"status": "ok", "type", "threat", "result", "seconds", "passes", "machines"}``, in the
        suite's order.

    Raises:
        TypeError: If images or labels are not tensors of the right kind.
        ValueError: If images leave [0, 1], or labels do not fit.

    Example:
        >>> import tempfile
        >>> from simreg.evaluation import build_suite, strengths_of
        >>> from simreg.robustness import Classifier
        >>> brightness = lambda x: torch.stack([1 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1)
        >>> images, labels = torch.tensor([0.1, 0.9, 0.8]).view(3, 1, 1, 1).expand(3, 1, 8, 8), torch.tensor([0, 1, 1])
        >>> suite = build_suite("quick", strengths_of("cifar10")).only(["clean", "gaussian"])
        >>> with tempfile.TemporaryDirectory() as out:
        ...     found = run_suite(Subject(Classifier(brightness), images, labels), suite, out=out, progress=False)
        >>> found["clean"]["result"]["accuracies"]
        [1.0]
    """
    check_evaluation_set(subject.images, subject.labels, 1)
    batch = _Batch(batch_size or fitting_batch(subject))
    store = _Store(Path(out) / "parts", fingerprint(subject, batch.size))
    entries: dict[str, Any] = {}
    on_gpu = subject.classifier.device is not None and subject.classifier.device.type == "cuda"
    work = {m.key: _parts(m, len(subject.labels), _GPU_CHUNKS if on_gpu else 1) for m in suite.measurements}
    left = sum(_ticks(m, p) for m in suite.measurements for p in work[m.key] if store.read(m, p) is None)
    ticks = show_progress(range(left), description=f"evaluating {model_name}", enabled=progress)
    for measurement in suite.measurements:
        entries[measurement.key] = _measure(measurement, work[measurement.key], subject, store, batch, ticks, entries)
        if on_result is not None:
            on_result(entries)
    for _ in ticks:  # entries that were not run leave some
        pass
    return entries


def _measure(
    measurement: Measurement,
    parts: Sequence[slice],
    subject: Subject,
    store: _Store,
    batch: _Batch,
    ticks: Iterator[int],
    entries: Mapping[str, Any],
) -> dict[str, Any]:
    """The entry of one measurement: from its parts, measured where they are not kept yet."""
    reason = measurement.obstacle(subject) or _nothing_correct(measurement, entries)
    done: list[dict[str, Any]] = []
    if reason is None:
        try:
            for part in parts:
                done.append(store.read(measurement, part) or _measure_part(measurement, part, subject, store, batch))
                _advance(ticks, _ticks(measurement, part) if done[-1].pop("fresh", False) else 0)
        except Exception as error:  # whatever fails becomes a named row, and the rest of the suite goes on
            if _out_of_memory(error):
                raise
            kind_of_error = "" if isinstance(error, (ImportError, ValueError)) else f"{type(error).__name__}: "
            done_images = f"after {len(done)} of {len(parts)} parts: " if done else ""
            reason = f"{done_images}{kind_of_error}{error}"
    if reason is not None:
        return {"status": "not run", "reason": reason, "threat": measurement.threat, "type": measurement.kind}
    kind = RESULTS[measurement.kind]
    joined = kind.join([kind.from_dict(part["result"]) for part in done])
    brief = measurement.kind in ("sweep", "distances")  # without the curves of single images, which parts keep
    result = joined.to_dict(curves=False) if brief else joined.to_dict()
    result["settings"] = {**result.get("settings", {}), "budget": measurement.settings}
    images = sum(part.stop - part.start for part in parts)
    return {
        "status": "ok",
        "type": measurement.kind,
        "threat": measurement.threat,
        "result": result,
        "seconds": sum(part["seconds"] for part in done),
        "passes": measurement.passes * images,
        "machines": list(dict.fromkeys(part["machine"] for part in done)),
    }


def _measure_part(
    measurement: Measurement, part: slice, subject: Subject, store: _Store, batch: _Batch
) -> dict[str, Any]:
    def attempt(size: int) -> tuple[Result, float]:
        start = time.monotonic()
        result = measurement.run(subject, part, size)
        return result, time.monotonic() - start

    result, seconds = batch.run(attempt, measurement.key)
    machine = hardware(subject.classifier.device or "cpu")
    entry = {"result": result.to_dict(), "seconds": seconds, "machine": machine}
    store.write(measurement, part, entry)
    return {**entry, "fresh": True}


def _nothing_correct(measurement: Measurement, entries: Mapping[str, Any]) -> str | None:
    """Accuracy says nothing of a model that gets no clean image right; distances still do."""
    found = entries.get("clean", {})
    judged = measurement.key != "clean" and measurement.kind in ("sweep", "corruptions")
    if found.get("status") != "ok" or found["result"]["accuracies"][0] > 0 or not judged:
        return None
    return (
        f"the model gets none of {found['result']['n']} clean images right: check the order of the classes, "
        "the labels and the normalisation (--mean, --std)"
    )


class _Store:
    """Parts on disk, each with a key of everything that decided it."""

    def __init__(self, folder: Path, subject: str) -> None:
        self.folder, self.subject = folder, subject

    def read(self, measurement: Measurement, part: slice) -> dict[str, Any] | None:
        """The part, or None if it was not measured, or with another model, images, seed, budget or version."""
        path = self._path(measurement, part)
        if not path.exists():
            return None
        try:
            data = read_results(path)
        except ValueError:  # damaged: measured again
            return None
        return data if data.get("key") == self._key(measurement) else None

    def write(self, measurement: Measurement, part: slice, entry: Mapping[str, Any]) -> None:
        """Keep a part, whole or not at all."""
        write_results(self._path(measurement, part), {"key": self._key(measurement), **entry})

    def _path(self, measurement: Measurement, part: slice) -> Path:
        name = f"{measurement.key}-{self._key(measurement)[:12]}"  # other budgets have parts of their own
        return self.folder / name / f"{part.start:06d}-{part.stop:06d}.json"

    def _key(self, measurement: Measurement) -> str:
        settings = {"settings": measurement.settings, "subject": self.subject, "simreg": versions()["simreg"]}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class _Batch:
    """Images per call: halved whenever memory runs out, for the rest of the run."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, work: Callable[[int], T], name: str) -> T:
        """``work(size)``, again with half the size after a lack of memory."""
        while True:
            try:
                return work(self.size)
            except (MemoryError, RuntimeError) as error:
                if self.size == 1 or not _out_of_memory(error):
                    raise
                reason = describe(error)
            # outside the handler, whose traceback keeps the tensors of the failed attempt alive
            self.size //= 2
            warn(f"{name}: out of memory ({reason}), goes on with batches of {self.size}.")
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _parts(measurement: Measurement, n: int, chunks: int) -> list[slice]:
    return batches(min(n, measurement.images), chunks * measurement.chunk)


def _ticks(measurement: Measurement, part: slice) -> int:
    return max(1, int(measurement.passes * (part.stop - part.start) / _TICK))


def _advance(ticks: Iterator[int], count: int) -> None:
    for _ in range(count):
        next(ticks, None)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
