"""How a trained net is measured: the suite of `simreg.evaluation`, or a function of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from simreg.robustness import Classifier, Surrogate


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
    return run_suite(
        classifier,
        images,
        labels,
        suite=plan,
        out=out,
        model_name=model_name,
        surrogate=surrogate,
        seed=seed,
        progress=progress,
        subject=subject,
    )
