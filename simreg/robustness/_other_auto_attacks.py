"""AutoAttack as others wrote it: the authors' package, and the adversarial-robustness-toolbox."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simreg.robustness._auto_attack_stages import SQUARE_SHARE, Budgets, Lineup, label_of
from simreg.robustness._generators import seeded_generators
from simreg.robustness._norms import Norm
from simreg.robustness._random import derive_seed
from simreg.robustness._worst_case import Stage
from simreg.robustness.classifier import Classifier


def original_lineup(
    classifier: Classifier, names: Sequence[str], norm: Norm, budgets: Budgets, classes: int, shape: Sequence[int]
) -> Lineup:
    """The authors' attacks of these names; their targeted ratio loss needs four classes, the other three."""
    package = original_package()
    lacking = [name for name in names if classes < {"apgd-t": 4, "apgd-dlr": 3}.get(name, 0)]
    run = [name for name in names if name not in lacking]

    def stage(name: str) -> Stage:
        def attack(images: Tensor, labels: Tensor, indices: Sequence[int], epsilon: float) -> Tensor:
            options = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": epsilon, "seed": budgets.seed}
            with seeded_generators(images.device, budgets.seed), _kept_gradients(classifier.model):
                adversary = package.AutoAttack(
                    classifier, **options, device=images.device, verbose=False, version="custom", attacks_to_run=[name]
                )
                _set_budgets(adversary, budgets, classes)
                found: Tensor = adversary.run_standard_evaluation(images, labels, bs=len(images))
            return found

        return Stage(name, attack)

    return Lineup(
        [stage(name) for name in run], f"autoattack {_version('autoattack')} ({label_of(run, budgets)})", lacking
    )


def _set_budgets(adversary: Any, budgets: Budgets, classes: int) -> None:
    """The budgets of the standard version unless others were asked for."""
    adversary.apgd.n_restarts, adversary.apgd.n_iter = budgets.restarts, budgets.steps
    adversary.apgd_targeted.n_restarts, adversary.apgd_targeted.n_iter = 1, budgets.steps
    adversary.fab.n_restarts, adversary.fab.n_iter = 1, budgets.steps
    for attack in (adversary.apgd_targeted, adversary.fab):
        attack.n_target_classes = min(budgets.targets, classes - 1)
    adversary.square.n_queries = budgets.max_queries


def original_installed() -> bool:
    """Whether the authors' package can be imported."""
    try:
        original_package()
    except ImportError:
        return False
    return True


def original_package() -> Any:
    """The authors' package; raises ``ImportError`` saying where it is."""
    try:
        package = import_module("autoattack")
    except ImportError as error:
        raise ImportError(
            'implementation="original" needs the package autoattack, which is not on PyPI: install it from '
            'https://github.com/fra31/auto-attack, or use implementation="simreg".'
        ) from error
    if not hasattr(package, "AutoAttack"):
        raise ImportError("the installed package autoattack has no AutoAttack: it is another package of that name.")
    return package


def art_lineup(
    classifier: Classifier, names: Sequence[str], norm: Norm, budgets: Budgets, classes: int, shape: Sequence[int]
) -> Lineup:
    """What the toolbox has of these attacks, with explicit budgets: its own defaults are far below the standard."""
    evasion, estimators = _art()
    # its targeted Auto-PGD follows no targeted ratio loss: the untargeted one stands in
    stand_in = {"apgd-ce": "apgd-ce", "apgd-t": "apgd-dlr", "apgd-dlr": "apgd-dlr", "square": "square"}
    run = [stand_in[name] for name in names if name in stand_in]
    run = [n for n in run if (classes > 2 or n != "apgd-dlr") and (_art_square_fits(shape, norm) or n != "square")]

    def stage(name: str) -> Stage:
        def attack(images: Tensor, labels: Tensor, indices: Sequence[int], epsilon: float) -> Tensor:
            seed = derive_seed("art", name, budgets.seed, indices[0])
            with seeded_generators(images.device, seed), _kept_gradients(classifier.model):
                estimator = _estimator(estimators, classifier, images, classes)
                method = _art_attack(evasion, estimator, name, norm, budgets, epsilon, len(images))
                found = method.generate(x=images.cpu().numpy().astype(np.float32), y=labels.cpu().numpy())
            return torch.from_numpy(found).to(images)

        return Stage(name, attack)

    label = f"art {_version('adversarial-robustness-toolbox')} ({label_of(run, budgets)})"
    return Lineup([stage(name) for name in run], label, [name for name in names if name not in run])


def _art_attack(evasion: Any, estimator: Any, name: str, norm: Norm, budgets: Budgets, epsilon: float, n: int) -> Any:
    order = np.inf if norm == "linf" else 2
    common = {"norm": order, "eps": float(epsilon), "batch_size": n, "verbose": False}
    if name == "square":
        return evasion.SquareAttack(
            estimator, max_iter=budgets.max_queries, p_init=SQUARE_SHARE, nb_restarts=1, **common
        )
    loss = "cross_entropy" if name == "apgd-ce" else "difference_logits_ratio"
    return evasion.AutoProjectedGradientDescent(
        estimator,
        eps_step=2 * float(epsilon),
        max_iter=budgets.steps,
        nb_random_init=budgets.restarts,
        loss_type=loss,
        **common,
    )


def _art_square_fits(shape: Sequence[int], norm: Norm) -> bool:
    """Whether the toolbox's Square (1.20) runs on images (C, H, W): it fails where its first square fills a side.

    For "l2" it also divides by zero where a fifth of the height is a single pixel.
    """
    _, height, width = shape
    side = round(math.sqrt(SQUARE_SHARE * height * width))
    if norm == "l2":
        side = max(side, 3) // 2 * 2 + 1
    return side < min(height, width) and (norm == "linf" or height >= 10)


def _estimator(estimators: Any, classifier: Classifier, images: Tensor, classes: int) -> Any:
    return estimators.PyTorchClassifier(
        model=_Bridge(classifier),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="cpu" if images.device.type == "cpu" else "gpu",
    )


@contextmanager
def _kept_gradients(model: object) -> Iterator[None]:
    """What the caller has in ``.grad`` stays: others call ``backward``, which adds to it."""
    kept = [(p, p.grad) for p in model.parameters()] if isinstance(model, nn.Module) else []
    try:
        for parameter, _ in kept:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


class _Bridge(nn.Module):
    """A classifier as a module without parameters or submodules: it can be neither moved nor switched to training."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.call = classifier.__call__  # a bound method is no submodule

    def forward(self, images: Tensor) -> Tensor:
        return self.call(images)


def _art() -> tuple[Any, Any]:
    try:
        return import_module("art.attacks.evasion"), import_module("art.estimators.classification")
    except ImportError as error:
        raise ImportError(
            'implementation="art" needs the adversarial-robustness-toolbox: pip install "simreg[autoattack]"'
        ) from error


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"
