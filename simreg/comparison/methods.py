"""The methods of a comparison: a name with settings, and how it trains a network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from simreg._checks import describe, near_matches
from simreg.comparison.collapse import CollapseWatch
from simreg.comparison.objectives import Objective
from simreg.comparison.parts import EPSILON, PARTS, Site, Stage
from simreg.comparison.recipe import Batch
from simreg.comparison.similarity import relevant_settings

METHODS: tuple[str, ...] = (*PARTS, "simreg+gaussian", "simreg+augmix", "simreg+fgsm-rs")
"""Names that `parse_method` knows; further combinations join an objective and input stages by ``+``."""


class Trainer:
    """A method at work on one network.

    Args:
        stages: What the images of a step go through before the network sees them.
        objective: What is minimised.
        watch: Of one-step adversarial training.
    """

    def __init__(
        self, model: nn.Module, stages: Sequence[Stage], objective: Objective, watch: CollapseWatch | None
    ) -> None:
        self.model, self.stages, self.objective, self.watch = model, tuple(stages), objective, watch

    def loss(self, batch: Batch) -> Tensor:
        """Loss of one step, a scalar."""
        images = batch.images
        for stage in self.stages:
            images = stage(self.model, images, batch.labels, batch.draws)
        return self.objective.loss(images, batch)

    def state_dict(self) -> dict[str, Any]:
        """What changes from step to step, for checkpoints."""
        watch = None if self.watch is None else self.watch.state_dict()
        return {"objective": self.objective.state_dict(), "watch": watch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.objective.load_state_dict(state["objective"])
        if self.watch is not None:
            self.watch.load_state_dict(state["watch"])


@dataclass(frozen=True)
class Method:
    """A method with its settings.

    Attributes:
        name: As it was asked for, such as ``"simreg+gaussian:sigma=0.05"``.
        parts: Names of its parts.
        settings: All settings that decide what it does.
    """

    name: str
    parts: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def label(self) -> str:
        """Name in tables, with the settings that were asked for."""
        asked = self.name.partition(":")[2].replace(":", ", ")
        return " + ".join(PARTS[part].label for part in self.parts) + (f" ({asked})" if asked else "")

    @property
    def description(self) -> str:
        """What its parts do."""
        return " ".join(PARTS[part].description for part in self.parts)

    @property
    def obstacle(self) -> str | None:
        """Why it cannot run here; None if it can."""
        reasons = [PARTS[part].obstacle(self.settings) for part in self.parts]
        return next((reason for reason in reasons if reason is not None), None)

    def trainer(self, site: Site) -> Trainer:
        """The method at work on a network."""
        made = {part: PARTS[part].make(site, self.settings) for part in self.parts}
        stages = [made[part] for part in self.parts if PARTS[part].role == "input"]
        objectives = [made[part] for part in self.parts if PARTS[part].role == "objective"]
        watch = None
        if "fgsm-rs" in self.parts:
            watch = CollapseWatch(site.data, self.settings["epsilon"], seed=site.seed, total=site.steps)
        return Trainer(site.model, stages, objectives[0] if objectives else Objective(site.model), watch)


def parse_method(text: str, *, epsilon: float = EPSILON) -> Method:
    """A method by name, with settings of its own where they are given.

    Args:
        text: ``name``, ``name:setting=value:setting=value``, or several names joined by ``+``: at most one objective,
            and what it is combined with. ``layers`` of simreg are "early", "auto", or names joined by "/".
        epsilon: L-inf radius of adversarial training where the text has none.

    Returns:
        The method.

    Raises:
        ValueError: If a name or setting is unknown (near matches are listed), a value is of the wrong kind, or the
            parts do not go together.

    Example:
        >>> parse_method("simreg+gaussian:sigma=0.05:alpha=3").label
        'simreg, same batch + Gaussian noise (sigma=0.05, alpha=3)'
        >>> parse_method("gauss")
        Traceback (most recent call last):
        ...
        ValueError: method 'gauss' is unknown. Did you mean 'gaussian'? ...
    """
    names, *given = text.strip().split(":")
    parts = tuple(names.split("+"))
    for part in parts:
        if part not in PARTS:
            near = near_matches(part, PARTS, limit=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"method {part!r} is unknown.{hint} There are {', '.join(PARTS)}, joined by '+'.")
    _check_combination(text, parts)
    settings = {key: value for part in parts for key, value in PARTS[part].defaults.items()}
    defaults = dict(settings)
    for item in given:
        key, value = _parse_setting(text, item, defaults)
        settings[key] = value
    if "epsilon" in settings and settings["epsilon"] is None:
        settings["epsilon"] = epsilon
    if "mode" in settings:
        settings = relevant_settings(text, settings, {item.partition("=")[0] for item in given})
    return Method(text.strip(), parts, settings)


def parse_methods(text: str, *, epsilon: float = EPSILON) -> list[Method]:
    """Methods from a comma list, each once.

    Raises:
        ValueError: As for `parse_method`, or if the list is empty or names a method twice.
    """
    methods = [parse_method(item, epsilon=epsilon) for item in text.split(",") if item.strip()]
    names = [method.name for method in methods]
    double = sorted({name for name in names if names.count(name) > 1})
    if double or not methods:
        raise ValueError(f"methods: {', '.join(double)} twice." if double else "methods: name at least one.")
    return methods


def file_name(name: str) -> str:
    """A method's name as part of a file name.

    Example:
        >>> file_name("simreg+gaussian:sigma=0.05")
        'simreg+gaussian_sigma=0.05'
    """
    return re.sub(r"[^\w.+=-]", "_", name)


def _check_combination(text: str, parts: Sequence[str]) -> None:
    objectives = [part for part in parts if PARTS[part].role == "objective"]
    attacks = [part for part in parts if PARTS[part].adversarial]
    for kind, found in (("objectives", objectives), ("attacks", attacks)):
        if len(found) > 1:
            raise ValueError(f"method {text!r} has {len(found)} {kind}, {' and '.join(found)}: only one is possible.")
    if len(set(parts)) < len(parts):
        raise ValueError(f"method {text!r} names a part twice.")


def _parse_value(raw: str) -> Any:
    """JSON, a fraction such as 8/255, or the text itself."""
    fraction = re.fullmatch(r"([\d.]+)/([\d.]+)", raw)
    if fraction:
        return float(fraction[1]) / float(fraction[2])
    try:
        return json.loads(raw)
    except json.JSONDecodeError:
        return raw


def _parse_setting(text: str, item: str, defaults: Mapping[str, Any]) -> tuple[str, Any]:
    key, equals, raw = item.partition("=")
    if not equals or key not in defaults:
        known = ", ".join(defaults) or "none"
        raise ValueError(f"method {text!r}: {item!r} is not a setting of it, given as name=value. It has: {known}.")
    value, default = _parse_value(raw), defaults[key]
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(f"method {text!r}: {key} must be {type(default).__name__}, got {describe(value)}.")
    return key, value
