"""Classifier: an image model as a function of images in [0, 1], and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from simreg._checks import check_images, check_positive, check_tensor, check_unit_range, describe
from simreg.robustness._progress import progress as show_progress

Model = Callable[[Tensor], Tensor]
"""Any callable that maps images in [0, 1], (N, C, H, W), to logits (N, K)."""


class Classifier:
    r"""An image model as a callable on images in [0, 1]; it owns the normalisation and the evaluation mode.

    .. math:: f(x) = \mathrm{model}((x - \mathrm{mean}) / \mathrm{std})

    Every call runs the model in evaluation mode and puts each submodule back into the mode it was in, also after an
    exception. The model is neither moved nor changed; images are moved to its device and cast to its dtype.

    Args:
        model: Maps normalised images (N, C, H, W) to logits (N, K).
        mean: Subtracted from the images: one number or one per channel, in [0, 1] units.
        std: Divides the images: one positive number or one per channel. The paper's input 5 (x - 0.5) is
            ``mean=0.5, std=0.2``.

    Raises:
        TypeError: If ``model`` is not callable, or returns something other than a tensor.
        ValueError: If ``std`` is not positive, the channels do not fit, or the output is not (N, K) with K >= 2.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> classifier = Classifier(model, mean=0.5, std=0.2)
        >>> classifier(torch.rand(5, 1, 2, 2)).shape, model.training
        (torch.Size([5, 3]), True)
    """

    def __init__(
        self, model: Callable[[Tensor], Any], *, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
    ) -> None:
        if not callable(model):
            raise TypeError(f"model must be callable on images (N, C, H, W), got {describe(model)}.")
        self.model = model
        self.mean = _channel_values("mean", mean)
        self.std = _channel_values("std", std)
        for value in self.std:
            check_positive("std", value)

    @property
    def device(self) -> torch.device | None:
        """Device of the model's first parameter or buffer; None when it has neither or is no module."""
        tensor = self._first_tensor()
        return None if tensor is None else tensor.device

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]; differentiable with respect to the images."""
        inputs = self._normalise(images)
        with evaluation_mode(self.model):
            return check_logits(self.model(inputs), len(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Predicted labels (N,), int64, on the model's device."""
        return self(images).argmax(dim=1)

    def _normalise(self, images: Tensor) -> Tensor:
        reference = self._first_tensor()
        if reference is not None:
            dtype = reference.dtype if reference.is_floating_point() else images.dtype
            images = images.to(reference.device, dtype)
        channels = images.shape[1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(
                    f"{name} has {len(values)} values but the images have {channels} channels. "
                    "Pass one number, or one per channel."
                )
        mean, std = (torch.tensor(v, device=images.device, dtype=images.dtype) for v in (self.mean, self.std))
        return (images - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)

    def _first_tensor(self) -> Tensor | None:
        if not isinstance(self.model, nn.Module):
            return None
        return next(chain(self.model.parameters(), self.model.buffers()), None)


def as_classifier(model: object) -> Classifier:
    """A ``Classifier`` as it is; any other callable as one without normalisation."""
    return model if isinstance(model, Classifier) else Classifier(cast("Callable[[Tensor], Any]", model))


@torch.no_grad()
def accuracy(model: Model, images: Tensor, labels: Tensor, *, batch_size: int = 256, progress: bool = False) -> float:
    r"""Share of images whose predicted class is their label.

    .. math:: \frac{1}{N} \sum_i [\arg\max_k f_k(x_i) = y_i]

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
        labels: Shape (N,), integers in [0, K).
        batch_size: Images per call of the model; does not change the result.
        progress: Show progress on standard error.

    Returns:
        Accuracy in [0, 1].

    Raises:
        TypeError: If images, labels or the model's output are not tensors of the right kind.
        ValueError: If images leave [0, 1], labels do not fit, or the logits hold NaN.

    Example:
        >>> brightness = lambda x: torch.stack([1 - x.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3))], dim=1)
        >>> images = torch.tensor([0.1, 0.9, 0.8]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
        >>> accuracy(brightness, images, torch.tensor([0, 1, 1]))
        1.0
    """
    classifier = as_classifier(model)
    check_evaluation_set(images, labels, batch_size)
    parts = batches(len(images), batch_size)
    correct = 0
    for part in show_progress(parts, description="accuracy", enabled=progress):
        correct += count_correct(classifier, unit_float(images[part]), labels[part])
    return correct / len(images)


def count_correct(classifier: Classifier, images: Tensor, labels: Tensor) -> int:
    """Number of images of one batch that get their label; checks the labels against the number of classes."""
    with torch.no_grad():
        logits = classifier(images)
    return int((logits.argmax(dim=1) == check_labels_fit(labels, logits)).sum())


def check_evaluation_set(images: object, labels: object, batch_size: int) -> None:
    """Raise unless images (N, C, H, W) in [0, 1] and labels (N,) belong together and N >= 1."""
    pixels = check_attack_images("images", images, batch_size)
    targets = check_tensor("labels", labels, wanted="an integer tensor of shape (N,)")
    if targets.dtype == torch.bool or targets.is_floating_point() or targets.is_complex():
        raise TypeError(f"labels must be integers, got {targets.dtype}. Use labels.long() on class indices.")
    if targets.shape != (len(pixels),):
        raise ValueError(f"labels must have shape ({len(pixels)},), one per image, got {tuple(targets.shape)}.")
    if int(targets.min()) < 0:
        raise ValueError(f"labels must be class indices >= 0, got {int(targets.min())}.")


def check_attack_images(name: str, images: object, batch_size: int) -> Tensor:
    """Raise unless ``images`` is a non-empty batch in [0, 1] and ``batch_size`` a positive integer."""
    pixels = check_images(name, images)
    if pixels.numel() == 0:
        raise ValueError(f"{name} must hold at least one image and one pixel, got shape {tuple(pixels.shape)}.")
    check_unit_range(name, pixels)
    check_count("batch_size", batch_size)
    return pixels


def check_count(name: str, value: object, *, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {describe(value)}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")


def check_logits(output: object, n: int) -> Tensor:
    """Raise unless ``output`` holds logits (n, K), K >= 2, floating point and without NaN; returns it."""
    logits = check_tensor(
        "the model's output", output, wanted="a tensor of logits (N, K); wrap the model so that it is"
    )
    if logits.ndim != 2 or logits.shape[0] != n or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(
            f"the model must return floating-point logits of shape ({n}, K) with K >= 2 classes, "
            f"got {describe(logits)}. Wrap it: lambda images: model(images).flatten(1), for example."
        )
    if bool(logits.detach().isnan().any()):
        raise ValueError(
            f"the model returned NaN logits for {int(logits.isnan().any(dim=1).sum())} of {n} images. "
            "Its training diverged, or its weights or normalisation are damaged: evaluate an earlier checkpoint."
        )
    return logits


def check_labels_fit(labels: Tensor, logits: Tensor) -> Tensor:
    """Raise if a label is no class of the model; returns the labels on the logits' device, int64."""
    classes, largest = logits.shape[1], int(labels.max())
    if largest >= classes:
        raise ValueError(
            f"labels hold class {largest} but the model has {classes} classes (0 to {classes - 1}). "
            "Evaluate on the data set the model was trained for."
        )
    return labels.to(logits.device, torch.int64)


def batches(n: int, batch_size: int) -> list[slice]:
    """Slices that cover ``range(n)``, ``batch_size`` at a time."""
    return [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def unit_float(images: Tensor) -> Tensor:
    """Images as float in [0, 1]: uint8 is divided by 255, half precision becomes float32."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    return images.detach() if images.dtype in (torch.float32, torch.float64) else images.detach().to(torch.float32)


def _channel_values(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """``value`` as a tuple of finite floats, one for all channels or one per channel."""
    try:
        values = tuple(float(v) for v in torch.as_tensor(value, dtype=torch.float64).reshape(-1))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number or a sequence of numbers, got {describe(value)}.") from None
    if not values or not all(abs(v) < float("inf") for v in values):
        raise ValueError(f"{name} must be finite, one number or one per channel, got {value!r}.")
    return values


@contextmanager
def evaluation_mode(model: object) -> Iterator[None]:
    """Run ``model`` in evaluation mode; afterwards every submodule has its own flag back."""
    flags = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    if not isinstance(model, nn.Module) or not any(training for _, training in flags):
        yield
        return
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)  # modules that override train() get to undo what eval() did
        for module, training in flags:
            module.training = training
