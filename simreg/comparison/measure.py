"""How a trained net is measured: the suite of `simreg.evaluation`, or a function of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from simreg.robustness import Classifier, Surrogate, masking_panel, verdicts


class Evaluate(Protocol):
    """Measures one net; it is given test images, which nothing else in a comparison sees."""

    def __call__(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        suite: str,
        out: Path,
        model_name: str,
        surrogate: Surrogate | None,
        dataset: str,
        layers: Sequence[str],
        seed: int,
        progress: bool,
    ) -> dict[str, Any]:
        """Measurements by key, as in results of ``simreg evaluate``.

        Args:
            classifier: The net on images in [0, 1].
            images: Shape (N, C, H, W), uint8, in random order.
            labels: Shape (N,).
            suite: "quick", "standard" or "full".
            out: Folder for parts that survive a stop.
            model_name: Shown with the progress.
            surrogate: Source of transferred attacks.
            dataset: Name of the data, which decides how strong the distortions are.
            layers: Regularized layers, which the adaptive attack works on.
            seed: Of everything random.
            progress: Whether progress is shown.
        """


def evaluate_suite(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    suite: str,
    out: Path,
    model_name: str,
    surrogate: Surrogate | None,
    dataset: str,
    layers: Sequence[str],
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """Measure with a suite of `simreg.evaluation`; see `Evaluate`."""
    from simreg.evaluation import Subject, build_suite, run_suite, strengths_of

    features = None
    if layers:
        from simreg.robustness import layer_features

        features = layer_features(classifier, layers)
    plan = build_suite(suite, strengths_of(dataset, images.shape[-1]))  # type: ignore[arg-type] # checked there
    subject = Subject(classifier, images, labels, seed, surrogate, features=features)
    return run_suite(subject, plan, out=out, model_name=model_name, progress=progress)


def threat_linf(dataset: str, images: Tensor) -> float:
    """The L-inf budget at which nets for these images are judged."""
    from simreg.evaluation import strengths_of

    return strengths_of(dataset, images.shape[-1]).threat_linf


def judge(
    measurements: Mapping[str, Mapping[str, Any]], images: Tensor, labels: Tensor, *, dataset: str, classes: int
) -> dict[str, Any]:
    """Masking panel and verdicts of a trained net, under the names that results of ``simreg evaluate`` have.

    Args:
        measurements: Entries by key.
        images: Those measured on, shape (N, C, H, W).
        labels: Shape (N,), integers.
        dataset: Name of the data, which decides the budget that is judged.
        classes: Number of classes.
    """
    values = images[0].numel()
    panel = masking_panel(  # nets of a comparison are deterministic and return logits
        measurements, values_per_image=values, random=False, probabilities=False
    )
    budget = threat_linf(dataset, images)
    majority = int(labels.bincount().max()) / len(labels)
    task: dict[str, Any] = {"values_per_image": values, "classes": classes, "majority": majority}
    said = verdicts(measurements, panel, threat_linf=budget, **task)
    return {"masking": panel, "verdicts": said}
