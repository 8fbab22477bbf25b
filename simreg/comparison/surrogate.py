"""The surrogate of transferred attacks on models of any origin: a small net, trained once for a data set and kept."""

from __future__ import annotations

import hashlib
import re
from math import ceil
from pathlib import Path

from simreg.comparison.methods import parse_method
from simreg.comparison.nets import Workshop
from simreg.comparison.recipe import DIGIT_LIKE, Network, Recipe, Split
from simreg.evaluation import EvaluationData, surrogate_from
from simreg.robustness import Surrogate
from simreg.robustness._progress import progress as show_progress

SEED = 100
WIDTH = 16
IMAGES_SHOWN = 75_000  # 1.5 passes over CIFAR-10: a minute or two on a CPU
_MOST_EPOCHS = 30
_CACHE = Path("~/.cache/simreg/surrogates")


def managed_surrogate(
    data: EvaluationData, *, folder: str | Path = _CACHE, device: str = "cpu", progress: bool = False
) -> tuple[Surrogate | None, str]:
    """The surrogate for these images: loaded from ``folder``, or trained on the training images and kept there.

    A ResNet18 of width 16 without regularization, from a seed of its own. It is the same for every model that is
    evaluated on the data, so that their transferred attacks compare; results record its fingerprint. Other training
    images, by the names and sizes of their files, have a surrogate of their own. A training that was stopped goes on.

    Args:
        data: Images to evaluate on; its ``training`` gives the images to train on.
        folder: Where surrogates are kept.
        device: Where it runs.
        progress: Show the training's progress.

    Returns:
        The surrogate, and "" ; or None, and why there is none.
    """
    if data.training is None:
        return None, f"{data.name} has no training images to train a surrogate on: pass one with --surrogate FILE"
    folder = Path(folder).expanduser()
    channels, height, width = data.images.shape[1:]
    recipe = Recipe(flip=data.dataset not in DIGIT_LIKE)
    decided = (data.training.key(), data.classes, WIDTH, SEED, IMAGES_SHOWN, recipe.to_dict())
    identity = hashlib.sha256(str(decided).encode()).hexdigest()[:12]
    slug = re.sub(r"[^a-z0-9]+", "-", data.name.lower()).strip("-") or "images"
    name = f"{slug}-{channels}x{height}x{width}-{identity}"
    path = folder / f"{name}.safetensors"
    if path.exists():
        return surrogate_from(path, device=device), ""
    images, labels = data.training()
    classes = data.classes or tuple(map(str, range(int(labels.max()) + 1)))
    workshop = Workshop(
        Network(len(classes), channels, WIDTH, stem_stride=2 if height >= 32 else 1),
        Split(images, labels).to(device),
        recipe,
        classes,
        folder,
    )
    folder.mkdir(parents=True, exist_ok=True)
    shown = min(IMAGES_SHOWN, _MOST_EPOCHS * len(labels))
    steps = ceil(shown / workshop.recipe.batch_size)
    ticks = show_progress(range(steps), description="training the surrogate", enabled=progress)

    def advance(step: int, seconds: float) -> None:
        next(ticks, None)

    workshop.net(name, parse_method("none"), seed=SEED, steps=steps, on_step=advance)
    return surrogate_from(path, device=device), ""
