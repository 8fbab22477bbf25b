"""Models that are random at inference, and models that return probabilities: found out, and made fit for attacks."""

from __future__ import annotations

import torch
from torch import Tensor

from simreg._checks import check_positive
from simreg.robustness._generators import seeded_generators
from simreg.robustness._random import check_seed, derive_seed
from simreg.robustness.classifier import (
    Classifier,
    Model,
    as_classifier,
    batches,
    check_attack_images,
    check_count,
    check_evaluation_set,
    evaluation_mode,
    unit_float,
)


class ExpectedClassifier(Classifier):
    r"""A random model as a deterministic one: the logarithm of its mean probabilities over several passes.

    .. math:: f(x) = \ln \frac{1}{S} \sum_{s=1}^{S} \mathrm{softmax}(f_s(x))

    A gradient through it is the expectation over the model's randomness (EOT), which is what an attack on a random
    model needs: one that follows a single pass fails by chance and makes noise look like robustness. The global
    generators of torch, NumPy and Python are seeded anew at each call and put back afterwards; a model with a generator
    of its own stays random. As the draws of a batch are shared out by row, results depend on the batch size.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        samples: Passes per call, S; memory and time grow with it.
        seed: Seed of the passes.

    Raises:
        TypeError: If ``model`` is not callable, or a number is no integer.
        ValueError: If ``samples`` is below 1.

    Source: Athalye, Carlini, Wagner, 2018, section 4.2 (https://arxiv.org/abs/1802.00420).

    Example:
        >>> noisy = lambda x: x.mean(dim=(2, 3)) + torch.randn(len(x), 2)
        >>> images = torch.rand(4, 2, 3, 3)
        >>> expected = ExpectedClassifier(noisy, samples=8)
        >>> is_random(noisy, images), is_random(expected, images)
        (True, False)
    """

    def __init__(self, model: Model, *, samples: int = 20, seed: int = 0) -> None:
        self.inner = as_classifier(model)
        super().__init__(self.inner.model, mean=self.inner.mean, std=self.inner.std)
        check_count("samples", samples)
        check_seed(seed)
        self.samples, self.seed = samples, seed

    def __call__(self, images: Tensor) -> Tensor:
        """Logarithm of the mean probabilities (N, K); differentiable with respect to the images."""
        wide = self._passes(images)
        return wide.log_softmax(dim=2).logsumexp(dim=0) - torch.tensor(float(self.samples)).log().item()

    @torch.no_grad()
    def single_pass_accuracy(self, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> float:
        """Mean accuracy of the single passes: what the model itself gets right, as opposed to its mean answer.

        Args:
            images: Shape (N, C, H, W), uint8 or floating point in [0, 1].
            labels: Shape (N,), integers.
            batch_size: Images per call of the model.

        Returns:
            A share in [0, 1].

        Raises:
            TypeError: If images or labels are not tensors of the right kind.
            ValueError: If images leave [0, 1], or labels do not fit.
        """
        check_evaluation_set(images, labels, batch_size)
        right = 0
        with evaluation_mode(self.model):
            for part in batches(len(images), batch_size):
                answers = self._passes(unit_float(images[part])).argmax(dim=2)  # (S, N)
                right += int((answers == labels[part].to(answers.device)).sum())
        return right / (self.samples * len(images))

    def _passes(self, images: Tensor) -> Tensor:
        """Logits of each pass, (S, N, K), at least float32."""
        with seeded_generators(self.device or images.device, derive_seed("expectation", self.seed)):
            passes = [self.inner(images) for _ in range(self.samples)]
        return torch.stack([p.to(torch.promote_types(p.dtype, torch.float32)) for p in passes])


class LogOfProbabilities(Classifier):
    r"""A model that returns probabilities as one that returns logits.

    .. math:: f(x) = \ln \max(p(x), \text{smallest normal number}), \qquad \mathrm{softmax}(f(x)) = p(x)

    Cross-entropy of probabilities taken for logits has hardly any gradient, so attacks on them look weak. Where the
    model has rounded a probability to 0 or 1 its gradient is lost for good: attack the layer before the softmax.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to probabilities (N, K).

    Raises:
        TypeError: If ``model`` is not callable.

    Example:
        >>> probabilities = lambda x: x.mean(dim=(2, 3)).softmax(dim=1)
        >>> images = torch.rand(4, 3, 5, 5)
        >>> returns_probabilities(probabilities, images)
        True
        >>> torch.allclose(LogOfProbabilities(probabilities)(images).softmax(dim=1), probabilities(images))
        True
    """

    def __init__(self, model: Model) -> None:
        self.inner = as_classifier(model)
        super().__init__(self.inner.model, mean=self.inner.mean, std=self.inner.std)

    def __call__(self, images: Tensor) -> Tensor:
        """Logarithm of the probabilities (N, K); differentiable with respect to the images."""
        values = self.inner(images)
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        return wide.clamp_min(torch.finfo(wide.dtype).tiny).log()


@torch.no_grad()
def is_random(
    model: Model, images: Tensor, *, passes: int = 3, batch_size: int = 64, relative_tolerance: float = 1e-4
) -> bool:
    r"""Whether the model, in evaluation mode, answers the same images differently from pass to pass.

    Every batch is passed several times. Answers that differ by more than rounding count: logits by more than
    ``relative_tolerance`` times the largest finite one of the batch, or probabilities by more than that of the largest
    logit of a class with a probability above 1e-6, plus 1e-3. The second holds where classes are masked by huge
    negative logits. Torch's, NumPy's and Python's global generators are put back afterwards.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1]; a few dozen do.
        passes: Passes of each batch, at least 2.
        batch_size: Images per call of the model; small enough for several batches finds rare randomness.
        relative_tolerance: What counts as rounding; GPU kernels that add in any order stay far below.

    Returns:
        True if any logit of any image changed.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1] or an option is out of range.

    Example:
        >>> is_random(lambda x: x.mean(dim=(2, 3)), torch.rand(4, 2, 3, 3))
        False
    """
    classifier = as_classifier(model)
    check_attack_images("images", images, batch_size)
    check_count("passes", passes, minimum=2)
    check_positive("relative_tolerance", relative_tolerance)
    with seeded_generators(classifier.device or images.device, derive_seed("is_random")):
        for part in batches(len(images), batch_size):
            pixels = unit_float(images[part])
            first = classifier(pixels)
            if any(answers_differ(first, classifier(pixels), relative_tolerance) for _ in range(passes - 1)):
                return True
    return False


@torch.no_grad()
def depends_on_batch(model: Model, images: Tensor, *, relative_tolerance: float = 1e-3) -> bool:
    r"""Whether the answer about an image changes with the images beside it, as in batch normalisation that is training.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to logits (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1]; a few dozen do, passed whole and in halves.
        relative_tolerance: What counts as rounding, as in ``is_random``; other batch sizes take other kernels.

    Returns:
        True if any answer changed; False for a single image.

    Raises:
        TypeError: If an argument is not of the right kind.
        ValueError: If images leave [0, 1].

    Example:
        >>> centred = lambda x: x.mean(dim=(2, 3)) - x.mean(dim=(2, 3)).mean(dim=0)
        >>> images = torch.rand(4, 2, 3, 3)
        >>> depends_on_batch(centred, images), depends_on_batch(lambda x: x.mean(dim=(2, 3)), images)
        (True, False)
    """
    classifier = as_classifier(model)
    check_attack_images("images", images, 1)
    check_positive("relative_tolerance", relative_tolerance)
    if len(images) < 2:
        return False
    pixels, half = unit_float(images), len(images) // 2
    with seeded_generators(classifier.device or images.device, derive_seed("depends_on_batch")):
        whole = classifier(pixels)
        halves = torch.cat([classifier(pixels[:half]), classifier(pixels[half:])])
    # other batch sizes round otherwise, and coarse types coarsely
    return answers_differ(whole, halves, max(relative_tolerance, 8 * torch.finfo(whole.dtype).eps))


def answers_differ(first: Tensor, second: Tensor, relative_tolerance: float) -> bool:
    """Whether two sets of logits (N, K) for the same images differ by more than rounding."""
    first, second = first.double(), second.double()
    change = torch.where(first == second, 0.0, (first - second).abs())  # equal infinities are no change
    if bool((change > relative_tolerance * _largest(first, first.isfinite())).any()):
        return True
    before, after = first.softmax(dim=1), second.softmax(dim=1)
    allowed = 1e-3 + relative_tolerance * _largest(first, before > 1e-6)
    return bool(((before - after).abs() > allowed).any())


def _largest(logits: Tensor, counted: Tensor) -> float:
    return float(logits.abs().where(counted, 0.0).max())


@torch.no_grad()
def returns_probabilities(model: Model, images: Tensor, *, batch_size: int = 64) -> bool:
    """Whether the model's outputs look like probabilities: no negative value, and every row sums to 1.

    Args:
        model: ``Classifier``, module or callable: images in [0, 1] to outputs (N, K).
        images: Shape (N, C, H, W), uint8 or floating point in [0, 1]; a few dozen do.
        batch_size: Images per call of the model.

    Returns:
        True if every row is a distribution, to three decimals.

    Raises:
        TypeError: If images or the model's output are not tensors of the right kind.
        ValueError: If images leave [0, 1].

    Example:
        >>> returns_probabilities(lambda x: x.mean(dim=(2, 3)), torch.rand(4, 2, 3, 3))
        False
    """
    classifier = as_classifier(model)
    check_attack_images("images", images, batch_size)
    for part in batches(len(images), batch_size):
        rows = classifier(unit_float(images[part])).float()
        if not bool((rows >= 0).all()) or not bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all()):
            return False
    return True
