"""What must be right before hours of attacks: classes, channels, logits, and a model that answers the same twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simreg.evaluation.data import EvaluationData
from simreg.evaluation.models import LoadedModel
from simreg.robustness import (
    ExpectedClassifier,
    LogOfProbabilities,
    depends_on_batch,
    is_random,
    returns_probabilities,
)
from simreg.robustness._generators import seeded_generators
from simreg.robustness.classifier import check_evaluation_set, check_labels_fit, unit_float

_IMAGES = 32


@dataclass(frozen=True)
class Findings:
    """What a look at the model showed, and what was done about it."""

    random: bool = False
    samples: int = 1
    repeatable: bool = True
    probabilities: bool = False
    depends_on_batch: bool = False

    @property
    def notes(self) -> list[str]:
        """In words, for results and reports."""
        notes = []
        if self.random:
            notes.append(
                f"The model answers differently each time: everything was measured on its mean answer over "
                f"{self.samples} passes (expectation over transformation)."
            )
        if not self.repeatable:
            notes.append(
                "The mean answer changes too, as the model draws from a generator of its own: attacks chase chance, "
                "and all numbers are only roughly right."
            )
        if self.depends_on_batch:
            notes.append(
                "The answer about an image depends on the images beside it (batch normalisation in training mode?): "
                "all numbers depend on the batch size."
            )
        if self.probabilities:
            notes.append("The model returns probabilities: attacks work on their logarithm, which is a valid logit.")
        return notes


def check_model(
    loaded: LoadedModel, data: EvaluationData, *, samples: int = 16, seed: int = 0
) -> tuple[LoadedModel, Findings]:
    """Run the model on a few images and mend or refuse what would make every number wrong.

    Args:
        loaded: The model.
        data: The images.
        samples: Passes whose mean stands for a model that is random at inference.
        seed: Seed of these passes.

    Returns:
        The model, wrapped if it is random or returns probabilities, and what was found.

    Raises:
        TypeError: If the model returns something other than a tensor.
        ValueError: If channels, classes or labels do not fit, images leave [0, 1], or logits hold NaN.
    """
    check_evaluation_set(data.images, data.labels, 1)
    channels = data.images.shape[1]
    if loaded.channels is not None and loaded.channels != channels:
        option = "--color" if loaded.channels == 3 else "--gray"
        raise ValueError(
            f"{loaded.name} takes images of {loaded.channels} channels, {data.name} has {channels}: load the data with "
            f"{option} (arrays must have that many channels themselves)."
        )
    some = unit_float(data.images[:_IMAGES])
    classifier = loaded.classifier
    with seeded_generators(classifier.device or some.device, 0):  # a random model draws from the global generators
        logits = _answer(loaded, some)
        probabilities = returns_probabilities(classifier, some)
        random = is_random(classifier, some)
        beside = not random and depends_on_batch(classifier, some)
    _check_classes(loaded, data, logits)
    if probabilities:
        classifier = LogOfProbabilities(classifier)
    if random:
        classifier = ExpectedClassifier(classifier, samples=samples, seed=seed)
    repeatable = not random or not is_random(classifier, some)
    found = Findings(random, samples if random else 1, repeatable, probabilities, beside)
    return replace(loaded, classifier=classifier), found


def _answer(loaded: LoadedModel, images: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return loaded.classifier(images)
    except (RuntimeError, IndexError) as error:
        shape = "x".join(map(str, images.shape[1:]))
        raise ValueError(
            f"{loaded.name} fails on images of {shape}: {' '.join(str(error).split())[:300]}. "
            "--gray, --color and --size change the images."
        ) from error


def check_first_label(data: EvaluationData, classes: int) -> None:
    """Raise if labels leave the classes of a model and none is 0: they are counted from 1."""
    low, high = (int(bound) for bound in torch.aminmax(data.labels))
    if low > 0 and high >= classes:
        raise ValueError(
            f"the labels of {data.name} are {low} to {high}, but labels count from 0: those of {classes} classes are 0 "
            f"to {classes - 1}. Subtract {low} from the labels if the first class is {low}."
        )


def _check_classes(loaded: LoadedModel, data: EvaluationData, logits: Tensor) -> None:
    check_first_label(data, logits.shape[1])
    check_labels_fit(data.labels, logits)
    for owner, classes in ((data.name, data.classes), (loaded.name, loaded.classes)):
        if classes and len(classes) != logits.shape[1]:
            raise ValueError(
                f"{loaded.name} gives {logits.shape[1]} logits, but {owner} has {len(classes)} classes. "
                "Evaluate on the data the model was trained for, or with a head of that many classes."
            )
    if loaded.classes and data.classes and loaded.classes != data.classes:
        raise ValueError(
            f"the classes of {loaded.name}, {', '.join(loaded.classes[:4])}..., are not those of {data.name}, "
            f"{', '.join(data.classes[:4])}..., in this order."
        )
