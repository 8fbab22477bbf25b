"""The evaluation of one model as one file: measurements, masking panel, verdicts and everything needed to repeat it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from simreg.evaluation.data import EvaluationData
from simreg.evaluation.hardware import hardware
from simreg.evaluation.identity import fingerprint, model_fingerprint
from simreg.evaluation.memory import fitting_batch
from simreg.evaluation.models import LoadedModel
from simreg.evaluation.preflight import Findings, check_model
from simreg.evaluation.runner import run_suite
from simreg.evaluation.suites import Measurement, Subject, Suite, SuiteName, build_suite, strengths_of
from simreg.robustness import (
    Classifier,
    Surrogate,
    layer_features,
    load_published,
    masking_panel,
    read_results,
    verdicts,
    write_results,
)
from simreg.robustness._surrogate import weights_fingerprint

_IDENTITY = ("model", "data", "seed", "surrogate", "suite", "layers")
"""What must agree for a run to go on in the same folder."""


def evaluate_model(
    model: LoadedModel | Classifier | nn.Module | Callable[[Tensor], Tensor],
    data: EvaluationData,
    *,
    suite: SuiteName | Suite = "quick",
    out: str | Path,
    surrogate: Surrogate | None = None,
    no_surrogate: str = "no surrogate was given",
    layers: Sequence[str] = (),
    corruptions: str | Path | None = None,
    samples: int = 16,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a model with a suite, judge what the numbers allow, and keep it all in ``out/results.json``.

    The file is there from the first measurement on, and is replaced whole after each; a stopped run goes on where it
    was. A folder that holds the evaluation of another model, other images or another seed is refused.

    Args:
        model: From `resolve_model`; or a module, `Classifier` or callable on images in [0, 1].
        data: Images and labels.
        suite: "quick", "standard", "full", or one of your own.
        out: Folder for results and parts.
        surrogate: Unregularized model for transferred attacks.
        no_surrogate: Why there is none: the reason that results give.
        layers: Names of the regularized layers, which the adaptive attack then works on too.
        corruptions: Folder of the published arrays, such as CIFAR-10-C: they bring their own images and labels, of the
            same classes as ``data``.
        samples: Passes whose mean stands for a model that is random at inference.
        seed: Seed of everything random.
        batch_size: Images per call of the model, see `run_suite`.
        progress: Show progress and the time left.

    Returns:
        What ``results.json`` holds; `simreg.reporting` makes a page of it.

    Raises:
        TypeError: If the model returns something other than a tensor.
        ValueError: If classes, channels or images do not fit, or ``out`` holds another evaluation.
        FileNotFoundError: If ``corruptions`` holds no published arrays.

    Example:
        >>> import tempfile, torch
        >>> brightness = lambda x: torch.stack([1 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1)
        >>> images = torch.linspace(0, 1, 8).view(8, 1, 1, 1).expand(8, 1, 8, 8)
        >>> data = EvaluationData("gray", images, (images[:, 0, 0, 0] > 0.5).long())
        >>> suite = build_suite("quick", strengths_of("gray")).only(["clean", "fgsm_linf"])
        >>> with tempfile.TemporaryDirectory() as out:
        ...     results = evaluate_model(brightness, data, suite=suite, out=out, progress=False)
        >>> results["measurements"]["clean"]["result"]["accuracies"]
        [1.0]
    """
    loaded, findings = check_model(_as_loaded(model), data, samples=samples, seed=seed)
    classifier = loaded.classifier
    strengths = strengths_of(data.dataset, data.images.shape[-1])
    if isinstance(suite, str):
        suite = build_suite(suite, strengths)
    if corruptions is not None:
        load_published(corruptions)  # a wrong folder shows before the work
    subject = Subject(
        classifier,
        data.images,
        data.labels,
        seed,
        surrogate,
        no_surrogate,
        layer_features(classifier, layers) if layers else None,
        None if corruptions is None else str(corruptions),
        findings.depends_on_batch,
    )
    batch_size = batch_size or fitting_batch(subject)
    device = str(classifier.device or "cpu")
    results: dict[str, Any] = {
        "kind": "evaluation",
        "model": _describe_model(loaded, findings, data),
        "data": data.to_dict(),
        "suite": suite.name,
        "layers": list(layers),
        "seed": seed,
        "surrogate": None if surrogate is None else {"name": surrogate.name, "fingerprint": surrogate.fingerprint},
        "device": device,
        "hardware": hardware(device),
        "subject": fingerprint(subject, batch_size),
    }
    if Path(out).is_file():
        raise ValueError(f"out={str(out)!r} is a file: pass a folder for results and parts.")
    path = Path(out) / "results.json"
    record = _Record(path, results, _same_before(path, results), suite, data, findings, strengths.threat_linf)
    run_suite(
        subject,
        suite,
        out=out,
        model_name=loaded.name,
        batch_size=batch_size,
        progress=progress,
        on_result=record.keep,
    )
    return read_results(path)


@dataclass
class _Record:
    """The results file: replaced whole after each measurement, with what the numbers so far allow to say."""

    path: Path
    results: dict[str, Any]  # all but the measurements and what follows from them
    before: dict[str, Any]  # entries that the file already had
    suite: Suite
    data: EvaluationData
    findings: Findings
    threat_linf: float
    start: float = field(default_factory=time.monotonic)

    def keep(self, entries: Mapping[str, Any]) -> None:
        """Write the file with these entries."""
        found = {**{m.key: _pending(m) for m in self.suite.measurements}, **self.before, **entries}
        self.results["measurements"] = found
        self.results["left_out"] = [key for key in self.suite.left_out if key not in found]
        self.results["model"]["notes"] = self.findings.notes + _near_chance(entries, self.data)
        self.results["seconds"] = sum(entry.get("seconds", 0.0) for entry in found.values())
        self.results["seconds_this_run"] = time.monotonic() - self.start
        self.results["machines"] = list(dict.fromkeys(name for e in found.values() for name in e.get("machines", ())))
        self._judge()
        write_results(self.path, self.results)

    def _judge(self) -> None:
        values = self.data.images[0].numel()
        self.results["masking"] = masking_panel(
            self.results["measurements"],
            values_per_image=values,
            random=self.findings.random,
            samples=self.findings.samples if self.findings.repeatable else 1,
            probabilities=self.findings.probabilities,
        )
        self.results["verdicts"] = verdicts(
            self.results["measurements"],
            self.results["masking"],
            threat_linf=self.threat_linf,
            values_per_image=values,
            classes=_classes(self.data),
            majority=_majority(self.data),
        )


def _describe_model(loaded: LoadedModel, findings: Findings, data: EvaluationData) -> dict[str, Any]:
    classifier = loaded.classifier
    is_module = isinstance(classifier.model, nn.Module)
    behaviour = model_fingerprint(classifier, data.images, data.labels)
    return {
        "name": loaded.name,
        "spec": loaded.spec,
        "fingerprint": weights_fingerprint(classifier) if is_module else behaviour,
        "parameters": _parameters(classifier.model),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        "random": findings.random,
        "samples": findings.samples,
        "probabilities": findings.probabilities,
        "notes": findings.notes,
    }


def _as_loaded(model: object) -> LoadedModel:
    if isinstance(model, LoadedModel):
        return model
    classifier = model if isinstance(model, Classifier) else Classifier(model)  # type: ignore[arg-type]
    name = type(classifier.model).__name__
    return LoadedModel(classifier, name, name)


def _same_before(path: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that ``path`` already has; raises if it holds the evaluation of something else."""
    if not path.exists():
        return {}
    before = read_results(path)
    for key in _IDENTITY:
        if _identity(before.get(key)) != _identity(results[key]):
            raise ValueError(
                f"{path.parent} holds an evaluation with another {key}: {_in_words(before.get(key))} instead of "
                f"{_in_words(results[key])}. Choose another folder, or delete that one."
            )
    # the same weights may answer otherwise: what was measured before then does not count
    return dict(before["measurements"]) if before.get("subject") == results["subject"] else {}


def _identity(value: object) -> object:
    """A label or a path may change, what it stands for may not."""
    return value.get("fingerprint") if isinstance(value, Mapping) else value


def _in_words(value: object) -> str:
    if not isinstance(value, Mapping):
        return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value).lower()
    images = f", {value['n']} images" if "n" in value else ""
    return f"{value.get('name')}{images} ({str(value.get('fingerprint'))[:8]})"


def _pending(measurement: Measurement) -> dict[str, Any]:
    """The entry of what a stopped run leaves out, so that no page of it looks complete."""
    reason = "not measured yet: the same command goes on"
    return {"status": "not run", "reason": reason, "threat": measurement.threat, "type": measurement.kind}


def _near_chance(entries: Mapping[str, Any], data: EvaluationData) -> list[str]:
    """A note if the model hardly knows the images: a twentieth of the way from a constant answer to all right."""
    clean = entries.get("clean", {})
    constant = max(1 / _classes(data), _majority(data))
    if clean.get("status") != "ok" or clean["result"]["accuracies"][0] > constant + (1 - constant) / 20:
        return []
    return [
        f"Clean accuracy is near chance on images of {'x'.join(map(str, data.images.shape[1:]))}: are their size "
        "(--size), the normalisation (--mean, --std), the order of the classes and the data those of the training?"
    ]


def _classes(data: EvaluationData) -> int:
    return len(data.classes) or int(data.labels.max()) + 1


def _majority(data: EvaluationData) -> float:
    """Share of the most frequent class: what a constant answer gets right."""
    return int(data.labels.bincount().max()) / len(data.labels)


def _parameters(model: object) -> int | None:
    return sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else None
