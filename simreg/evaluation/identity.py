"""What a number was measured on, as one fingerprint: a part counts only for what it was measured with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from simreg.evaluation.suites import Subject
from simreg.robustness import Classifier, ExpectedClassifier
from simreg.robustness._generators import seeded_generators
from simreg.robustness._hashing import sha256_of
from simreg.robustness._input_gradient import input_gradient
from simreg.robustness._surrogate import weights_fingerprint
from simreg.robustness.classifier import unit_float

_PROBED = 32  # images whose answers stand for the model's behaviour


def fingerprint(subject: Subject, batch_size: int) -> str:
    """SHA-256 over model, images, labels and everything else that decides results.

    Args:
        subject: What is measured.
        batch_size: Images per call at first: it decides the results of models that are random at inference, or whose
            answer about an image depends on the others of its batch.
    """
    classifier, surrogate = subject.classifier, subject.surrogate
    batch_matters = subject.batch_matters or isinstance(classifier, ExpectedClassifier)
    parts = (
        model_fingerprint(classifier, subject.images, subject.labels),
        None if surrogate is None else (surrogate.name, surrogate.fingerprint),
        getattr(subject.features, "layers", subject.features is not None),
        _folder_state(subject.corruptions),
        subject.seed,
        batch_size if batch_matters else None,
    )
    return sha256_of({"images": subject.images, "labels": subject.labels}, str(parts))


def model_fingerprint(classifier: Classifier, images: Tensor, labels: Tensor) -> str:
    """SHA-256 over weights, wrapper and behaviour: what the model answers on some images, and how its gradient looks.

    Weights alone do not tell a model from one whose ``forward`` was changed. Answers are rounded to a hundredth of the
    largest logit, so that the number of threads does not matter.
    """
    some, wanted = unit_float(images[:_PROBED]), labels[:_PROBED]
    with seeded_generators(classifier.device or some.device, 0):  # a random model draws from the global generators
        with torch.no_grad():
            logits = classifier(some).double().cpu()
        try:
            gradient, _ = input_gradient(classifier, some, wanted)
            steep: object = [f"{value:.1e}" for value in gradient.double().flatten(1).norm(dim=1).tolist()[:4]]
        except ValueError:  # no gradient, or not a finite one
            steep = None
    largest = float(logits.abs().where(logits.isfinite(), 0.0).max())
    relative = (logits / max(largest, 1e-30)).clamp(-1, 1)  # -inf masks a class
    probabilities = logits.softmax(dim=1)  # where one huge logit makes the others small
    answers = (f"{largest:.1e}", *(values.mul(100).round().int().tolist() for values in (relative, probabilities)))
    wrapper = (type(classifier).__name__, getattr(classifier, "samples", 1), classifier.mean, classifier.std)
    weights = weights_fingerprint(classifier) if isinstance(classifier.model, nn.Module) else None
    described = (weights, wrapper, answers, steep)
    return hashlib.sha256(str(described).encode()).hexdigest()


def _folder_state(folder: str | None) -> list[tuple[str, int, int]] | None:
    """Names, sizes and times of the files in a folder: another set of arrays is another measurement."""
    if folder is None:
        return None
    stats = [(path.name, path.stat()) for path in sorted(Path(folder).expanduser().glob("*.npy"))]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
