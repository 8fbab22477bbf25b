"""Suites: which attacks, on how many images, at which budget. Every number that decides a result stands here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from simreg._checks import check_choice
from simreg.robustness import (
    NOISES,
    BoundaryResult,
    Classifier,
    CorruptionResult,
    ExpectedClassifier,
    SpectrumResult,
    Surrogate,
    Sweep,
    accuracy,
    adaptive_accuracy,
    auto_attack_accuracy,
    boundary_attack,
    corruption_sweep,
    fgsm_sweep,
    hop_skip_jump,
    minimal_perturbation_spectrum,
    noise_sweep,
    pgd_accuracy,
    published_sweep,
    square_sweep,
    transfer_pgd_sweep,
    transfer_sweep,
)

SuiteName = Literal["quick", "standard", "full"]
SUITES: tuple[SuiteName, ...] = ("quick", "standard", "full")

Kind = Literal["sweep", "distances", "corruptions", "spectrum"]
Result = Sweep | BoundaryResult | CorruptionResult | SpectrumResult
RESULTS: dict[Kind, Any] = {
    "sweep": Sweep,
    "distances": BoundaryResult,
    "corruptions": CorruptionResult,
    "spectrum": SpectrumResult,
}
DIGITS = ("mnist", "fashionmnist", "digits")  # dark background: they stand larger distortions


@dataclass(frozen=True)
class Strengths:
    """Distortions in pixel units of [0, 1] images, by the kind of images."""

    noise: dict[str, float]  # largest of each kind
    transfer: float  # largest, L-inf
    linf: tuple[float, ...]  # white-box attacks
    l2: tuple[float, ...]

    @property
    def threat_linf(self) -> float:
        """The L-inf budget that the field reports: 8/255 on photographs, 0.3 on digits."""
        return self.linf[-1]

    @property
    def threat_l2(self) -> float:
        """The L2 budget that the field reports: 0.5 on 32-pixel photographs, 2 on digits."""
        return self.l2[-1]


def strengths_of(dataset: str, height: int = 32) -> Strengths:
    """The paper's distortions, and the field's white-box budgets; L2 grows with the side of the images."""
    if dataset in DIGITS:
        noise = {"gaussian": 0.5, "uniform": 0.5, "salt_and_pepper": 0.3}
        transfer = 0.2 if dataset == "digits" else 0.5  # the paper's 0.5 takes any net on the 8x8 digits below chance
        return Strengths(noise, transfer, (0.05, 0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    scale = height / 32
    transfer = 0.005 if dataset == "cifar100" else 0.02
    linf = tuple(k / 255 for k in (1, 2, 4, 8))
    return Strengths(dict.fromkeys(NOISES, 0.1), transfer, linf, tuple(scale * e for e in (0.1, 0.25, 0.5)))


@dataclass(frozen=True)
class Subject:
    """What is measured: a model, its images, and what attacks on it may use."""

    classifier: Classifier
    images: Tensor  # (N, C, H, W)
    labels: Tensor  # (N,)
    seed: int = 0
    surrogate: Surrogate | None = None
    no_surrogate: str = "no surrogate was given"
    features: Callable[[Tensor], Sequence[Tensor]] | None = None  # of the regularized layers
    corruptions: str | None = None  # folder of the published arrays
    batch_matters: bool = False  # answers depend on the images beside an image


@dataclass(frozen=True)
class Measurement:
    """One entry of a suite.

    Attributes:
        key: Name in results.
        kind: Type of its result.
        threat: Who the attacker is, or "noise" and "corruption".
        images: The first so many images; fewer where there are fewer.
        passes: Forward passes that one image takes, a backward pass counted as two.
        settings: Budgets: everything that decides the numbers beside model, images and seed.
        run: Measures some of the images: subject, rows, images per call of the model.
        obstacle: Why it cannot be measured on this subject; None if it can.
        chunk: Images between two points at which a run can be stopped and resumed.
    """

    key: str
    kind: Kind
    threat: str
    images: int
    passes: float
    settings: dict[str, Any]
    run: Callable[[Subject, slice, int], Result] = field(repr=False)
    obstacle: Callable[[Subject], str | None] = field(default=lambda _: None, repr=False)
    chunk: int = 250


@dataclass(frozen=True)
class Suite:
    """Measurements in the order in which they run."""

    name: str
    measurements: tuple[Measurement, ...]
    left_out: tuple[str, ...] = ()  # keys that ``only`` took away

    def only(self, keys: Sequence[str]) -> Suite:
        """The same suite with some of its measurements."""
        known = [m.key for m in self.measurements]
        if isinstance(keys, str):
            raise TypeError(f"only takes a list of keys, got the text {keys!r}: pass [{keys!r}].")
        for key in keys:
            check_choice("only", key, known)
        left_out = (*self.left_out, *(key for key in known if key not in keys))
        return Suite(self.name, tuple(m for m in self.measurements if m.key in keys), left_out)


def build_suite(name: SuiteName, strengths: Strengths) -> Suite:
    """The suite of this name.

    ``quick`` is for a look while you work; ``standard`` is what a paper's table needs; ``full`` is the standard suite
    on more images with the attacks' published budgets, for a GPU.

    Args:
        name: "quick", "standard" or "full".
        strengths: Distortions, see `strengths_of`.

    Returns:
        Measurements with all their budgets.

    Raises:
        ValueError: If ``name`` is unknown.

    Example:
        >>> suite = build_suite("quick", strengths_of("cifar10"))
        >>> [m.key for m in suite.measurements][:4]
        ['clean', 'gaussian', 'uniform', 'salt_and_pepper']
    """
    check_choice("suite", name, SUITES)
    return Suite(name, {"quick": _quick, "standard": _standard, "full": _full}[name](strengths))


def _quick(s: Strengths) -> tuple[Measurement, ...]:
    return (
        clean(10_000),
        *(noise(kind, 300, _steps(s.noise[kind], 3)) for kind in NOISES),
        transferred_fgsm(300, _steps(s.transfer, 4)),
        fgsm("linf", 200, (0.0, *s.linf)),
        pgd("linf", 100, (0.0, s.linf[1], s.threat_linf), steps=10),
        square("linf", 40, (s.threat_linf,), max_queries=100),
        boundary(25, steps=50),
        corruptions(60, (1, 3, 5)),
        large_budgets(50, s, steps=10),
    )


def _standard(s: Strengths) -> tuple[Measurement, ...]:
    linf, l2 = (0.0, *s.linf), (0.0, *s.l2)
    return (
        clean(10_000),
        *(noise(kind, 1000, _steps(s.noise[kind], 10)) for kind in NOISES),
        transferred_fgsm(1000, _steps(s.transfer, 10)),
        transferred_pgd(1000, _steps(s.transfer, 4), steps=20),
        fgsm("linf", 1000, linf),
        fgsm("l2", 1000, l2),
        pgd("linf", 500, linf, steps=50),
        pgd("l2", 500, l2, steps=50),
        adaptive(200, (s.linf[1], s.threat_linf), steps=50),
        auto_attack("linf", 200, (s.linf[0], s.threat_linf)),
        square("linf", 200, (s.linf[1], s.threat_linf), max_queries=1000),
        boundary(100, steps=5000),
        hop_skip("l2", 100, max_queries=2500),
        corruptions(1000, (1, 2, 3, 4, 5)),
        large_budgets(200, s, steps=20),
    )


def _full(s: Strengths) -> tuple[Measurement, ...]:
    linf, l2 = (0.0, *s.linf), (0.0, *s.l2)
    return (
        clean(10_000),
        *(noise(kind, 10_000, _steps(s.noise[kind], 10)) for kind in NOISES),
        transferred_fgsm(10_000, _steps(s.transfer, 10)),
        transferred_pgd(10_000, _steps(s.transfer, 10), steps=50),
        fgsm("linf", 10_000, linf),
        fgsm("l2", 10_000, l2),
        pgd("linf", 2000, linf, steps=50, restarts=5),
        pgd("l2", 2000, l2, steps=50, restarts=5),
        adaptive(1000, linf[1:], steps=100),
        auto_attack("linf", 1000, linf[1:]),
        auto_attack("l2", 1000, l2[1:]),
        square("linf", 1000, linf[1:], max_queries=5000),
        square("l2", 1000, (s.threat_l2,), max_queries=5000),
        boundary(1000, steps=50, repeats=5, key="boundary_paper"),
        boundary(200, steps=25_000),
        hop_skip("l2", 1000, max_queries=10_000),
        hop_skip("linf", 500, max_queries=10_000),
        corruptions(10_000, (1, 2, 3, 4, 5)),
        spectrum(200, steps=10_000),
        large_budgets(500, s, steps=50),
    )


def clean(images: int) -> Measurement:
    """Accuracy without distortion."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        images, labels, classifier = subject.images[part], subject.labels[part], subject.classifier
        share = accuracy(classifier, images, labels, batch_size=batch)
        settings: dict[str, Any] = {}
        if isinstance(classifier, ExpectedClassifier):  # what counts is its mean answer: say what a single one is worth
            single = classifier.single_pass_accuracy(images, labels, batch_size=batch)
            settings = {"samples": classifier.samples, "single_pass_accuracy": single}
        return Sweep("clean", (0.0,), (share,), len(labels), None, settings)

    return Measurement("clean", "sweep", "clean", images, 1, {}, run, chunk=2000)


def noise(kind: Any, images: int, epsilons: tuple[float, ...]) -> Measurement:
    """One kind of random noise."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y, options = _of_part(subject, part, batch)
        return noise_sweep(subject.classifier, x, y, kind, epsilons, **options)

    return Measurement(kind, "sweep", "noise", images, len(epsilons), {"epsilons": epsilons}, run)


def fgsm(norm: Any, images: int, epsilons: tuple[float, ...]) -> Measurement:
    """One white-box gradient step."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y = subject.images[part], subject.labels[part]
        return fgsm_sweep(subject.classifier, x, y, epsilons, norm=norm, batch_size=batch)

    settings = {"epsilons": epsilons, "norm": norm}
    return Measurement(f"fgsm_{norm}", "sweep", "white_box", images, 3 + len(epsilons), settings, run)


def pgd(
    norm: Any,
    images: int,
    epsilons: tuple[float, ...],
    *,
    steps: int,
    restarts: int = 1,
    key: str | None = None,
) -> Measurement:
    """Many white-box gradient steps."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y, options = _of_part(subject, part, batch)
        return pgd_accuracy(subject.classifier, x, y, epsilons, norm=norm, steps=steps, restarts=restarts, **options)

    passes = len(epsilons) * (3 * (steps + 1) * restarts + 1)
    settings = {"epsilons": epsilons, "norm": norm, "steps": steps, "restarts": restarts}
    return Measurement(key or f"pgd_{norm}", "sweep", "white_box", images, passes, settings, run, chunk=100)


def large_budgets(images: int, strengths: Strengths, *, steps: int) -> Measurement:
    """PGD at budgets that no model withstands: where accuracy stays, gradients are masked."""
    epsilons = tuple(sorted({2 * strengths.threat_linf, 0.25, 0.5}))
    return pgd("linf", images, epsilons, steps=steps, key="pgd_linf_large")


def transferred_fgsm(images: int, epsilons: tuple[float, ...]) -> Measurement:
    """One gradient step on the surrogate."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y = subject.images[part], subject.labels[part]
        return transfer_sweep(subject.classifier, _surrogate(subject), x, y, epsilons, batch_size=batch)

    settings = {"epsilons": epsilons, "norm": "linf"}
    return Measurement(
        "transferred_fgsm", "sweep", "transfer", images, 1 + len(epsilons), settings, run, _needs_surrogate
    )


def transferred_pgd(images: int, epsilons: tuple[float, ...], *, steps: int) -> Measurement:
    """Many gradient steps on the surrogate."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y, options = _of_part(subject, part, batch)
        return transfer_pgd_sweep(subject.classifier, _surrogate(subject), x, y, epsilons, steps=steps, **options)

    settings = {"epsilons": epsilons, "norm": "linf", "steps": steps}
    passes = len(epsilons) * (1 + steps)  # the surrogate is usually the smaller net
    return Measurement("transferred_pgd", "sweep", "transfer", images, passes, settings, run, _needs_surrogate)


def adaptive(images: int, epsilons: tuple[float, ...], *, steps: int) -> Measurement:
    """White-box attacks on logits and on the features that the regularizer shapes."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y, options = _of_part(subject, part, batch)
        return adaptive_accuracy(
            subject.classifier, x, y, epsilons, features=subject.features, steps=steps, norm="linf", **options
        )

    settings = {"epsilons": epsilons, "norm": "linf", "steps": steps}
    passes = len(epsilons) * 10 * (steps + 1)  # of at most 45; most images fall early
    return Measurement("adaptive_linf", "sweep", "white_box", images, passes, settings, run, chunk=100)


def auto_attack(norm: Any, images: int, epsilons: tuple[float, ...]) -> Measurement:
    """AutoAttack with its standard budgets."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y, options = _of_part(subject, part, batch)
        return auto_attack_accuracy(subject.classifier, x, y, epsilons, norm=norm, **options)

    settings = {"epsilons": epsilons, "norm": norm}
    passes = len(epsilons) * 2000  # of at most 10,000; most images fall early
    return Measurement(f"autoattack_{norm}", "sweep", "white_box", images, passes, settings, run, chunk=100)


def square(norm: Any, images: int, epsilons: tuple[float, ...], *, max_queries: int) -> Measurement:
    """Random search with scores alone."""

    def run(subject: Subject, part: slice, batch: int) -> Sweep:
        x, y, options = _of_part(subject, part, batch)
        return square_sweep(subject.classifier, x, y, epsilons, norm=norm, max_queries=max_queries, **options)

    settings = {"epsilons": epsilons, "norm": norm, "max_queries": max_queries}
    passes = len(epsilons) * max_queries / 2
    return Measurement(f"square_{norm}", "sweep", "score", images, passes, settings, run, chunk=100)


def boundary(images: int, *, steps: int, repeats: int = 1, key: str = "boundary") -> Measurement:
    """Random walk along the decision boundary, with decisions alone."""

    def run(subject: Subject, part: slice, batch: int) -> BoundaryResult:
        x, _, options = _of_part(subject, part, batch)
        return boundary_attack(
            subject.classifier, x, start_images=subject.images[:1000], steps=steps, repeats=repeats, **options
        )

    settings = {"steps": steps, "repeats": repeats}
    return Measurement(key, "distances", "decision", images, 1.1 * steps * repeats + 60, settings, run, chunk=100)


def hop_skip(norm: Any, images: int, *, max_queries: int) -> Measurement:
    """Gradients estimated from decisions alone."""

    def run(subject: Subject, part: slice, batch: int) -> BoundaryResult:
        x, _, options = _of_part(subject, part, batch)
        return hop_skip_jump(
            subject.classifier, x, start_images=subject.images[:1000], norm=norm, max_queries=max_queries, **options
        )

    settings = {"norm": norm, "max_queries": max_queries}
    return Measurement(f"hopskipjump_{norm}", "distances", "decision", images, max_queries, settings, run, chunk=100)


def corruptions(images: int, severities: tuple[int, ...]) -> Measurement:
    """The 15 common corruptions: the published arrays where there are any, else made for these images."""

    def run(subject: Subject, part: slice, batch: int) -> CorruptionResult:
        x, y = subject.images[part], subject.labels[part]
        options: dict[str, Any] = {"severities": severities, "batch_size": batch, "first_index": part.start}
        if subject.corruptions is not None:
            count, color = part.stop - part.start, x.shape[1] == 3
            return published_sweep(subject.classifier, subject.corruptions, n=count, color=color, **options)
        return corruption_sweep(subject.classifier, x, y, seed=subject.seed, **options)

    settings = {"severities": severities}
    return Measurement("corruptions", "corruptions", "corruption", images, 15 * len(severities), settings, run)


def spectrum(images: int, *, steps: int) -> Measurement:
    """Spectra of the smallest perturbations that a long Boundary Attack finds."""

    def run(subject: Subject, part: slice, batch: int) -> SpectrumResult:
        x, _, options = _of_part(subject, part, batch)
        return minimal_perturbation_spectrum(subject.classifier, x, steps=steps, **options)

    return Measurement("spectrum", "spectrum", "decision", images, 1.1 * steps, {"steps": steps}, run, chunk=100)


def _of_part(subject: Subject, part: slice, batch: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Images, labels and options of an attack with random draws."""
    options = {"batch_size": batch, "seed": subject.seed, "first_index": part.start}
    return subject.images[part], subject.labels[part], options


def _surrogate(subject: Subject) -> Surrogate:
    if subject.surrogate is None:
        raise ValueError(subject.no_surrogate)
    return subject.surrogate


def _needs_surrogate(subject: Subject) -> str | None:
    return subject.no_surrogate if subject.surrogate is None else None


def _steps(largest: float, count: int) -> tuple[float, ...]:
    """``count`` equal steps from 0 to ``largest``."""
    return tuple(largest * i / count for i in range(count + 1))
