"""Layer names: looking through wrappers, matching patterns, and choosing blocks of a model unseen before."""

import fnmatch
import itertools
from collections.abc import Iterable, Sequence

from torch import nn

from simreg._checks import near_matches

WRAPPER_SEGMENTS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WEIGHT_LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.MultiheadAttention)
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_HEADS = ("head", "classifier", "fc", "aux", "pre_logits", "last_linear", "logits")
AUTO_LAYERS = 5


def layer_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules of ``model`` by name without wrapper prefixes; of a wrapper and what it wraps, the wrapper."""
    modules: dict[str, nn.Module] = {}
    wrapper_paths: set[str] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        parent, _, leaf = name.rpartition(".")
        if leaf in WRAPPER_SEGMENTS and all(m is module for m in model.get_submodule(parent).children()):
            wrapper_paths.add(name)  # one child among others would be no wrapped model
        modules.setdefault(_clean(name, wrapper_paths), module)
    return modules


def _clean(name: str, wrapper_paths: set[str]) -> str:
    segments = name.split(".")
    paths = [".".join(segments[: i + 1]) for i in range(len(segments))]
    return ".".join(s for s, path in zip(segments, paths, strict=True) if path not in wrapper_paths)


def resolve_layers(model: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """Names of the layers that ``layers`` asks for, each once; see `FeatureTap`."""
    if layers in ("auto", "early"):
        return auto_layers(model) if layers == "auto" else early_layers(model)
    patterns = [layers] if isinstance(layers, str) else list(layers)
    if not patterns or not all(isinstance(p, str) for p in patterns):
        raise TypeError(f'layers must be layer names, patterns, "auto" or "early", got {layers!r}.')
    names = [name for name in layer_modules(model) if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = [n for n in names if _matches(n, pattern)]
        if not matched:
            near = near_matches(pattern, [*names, "auto", "early"]) or names[:10]
            raise ValueError(f"layers: {pattern!r} matches no layer of {type(model).__name__}. Near: {', '.join(near)}")
        found.update(dict.fromkeys(matched))
    return list(found)


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern, without the prefixes that wrappers put in front, fits a name segment by segment."""
    names = name.split(".")
    patterns = list(itertools.dropwhile(WRAPPER_SEGMENTS.__contains__, pattern.split("."))) or [pattern]
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def auto_layers(model: nn.Module) -> list[str]:
    """Five equally spaced points of ``model``: its stem and blocks, as the paper taps ResNet18.

    The stem is everything before the first block. A block is a module of two or more convolutions or linear layers
    that is not itself a chain of blocks; where there are fewer than five points, the largest is taken apart. Raises
    ValueError if the model has no layer with weights before its classifier, as does `early_layers`.

    Example:
        >>> model = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(9)], nn.Linear(8, 2))
        >>> auto_layers(model)
        ['0', '2', '4', '6', '8']
    """
    points = _points(model)
    n = min(AUTO_LAYERS, len(points))
    return points if n <= 1 else [points[round(i * (len(points) - 1) / (n - 1))] for i in range(n)]


def early_layers(model: nn.Module) -> list[str]:
    """The stem and the end of the first stage of ``model``, where the learned layer weights end up.

    A stage is a run of blocks in one container. In models of one stage, such as vision transformers, the second of the
    five points of `auto_layers` takes its place.
    """
    points = _points(model)
    stage = points[1].rpartition(".")[0] if len(points) > 1 else ""
    in_stage = [p for p in points[1:] if p.rpartition(".")[0] == stage]
    if not stage or len(in_stage) > len(points) // 2:
        return auto_layers(model)[:2]
    return [points[0], in_stage[-1]]


def _points(model: nn.Module) -> list[str]:
    """Stem and blocks in order of registration, at least five where the model can be taken apart that far."""
    names = {id(module): name for name, module in reversed(layer_modules(model).items())}
    root = _unwrapped(model)
    units = _trunk(root)
    blocks = [u for u in units if _weights(u) >= 2]
    points = _grouped(units[: units.index(blocks[0])])[-1:] + blocks if blocks else _grouped(units)
    while len(points) < AUTO_LAYERS:
        largest = max(points, key=lambda p: _weights(p) if len(_parts(p)) > 1 else 0, default=None)
        if largest is None or len(_parts(largest)) < 2:
            break
        i = points.index(largest)
        points[i : i + 1] = _parts(largest)
    if not points:
        raise ValueError(f"layers: {type(root).__name__} has no layer with weights before its classifier; name them.")
    return [names[id(p)] for p in points]


def _unwrapped(model: nn.Module) -> nn.Module:
    """The innermost module that holds all weights of ``model``: of a wrapper or a normalising pipeline, the model."""
    while True:
        weighted = [child for child in model.children() if _weights(child)]
        if len(weighted) != 1 or _weights(weighted[0]) < 2 or isinstance(weighted[0], nn.ModuleList):
            return model
        model = weighted[0]


def _trunk(root: nn.Module) -> list[nn.Module]:
    """What ``root`` runs before its classifier, chains of blocks taken apart."""
    children = list(root.named_children())
    body = [child for name, child in children if not name.lower().startswith(_HEADS)]
    if not any(map(_weights, body)):  # an MLP of fc1, fc2, ...: only the last one is the classifier
        body = [child for _, child in children]
    if body and len(body) == len(children) and isinstance(body[-1], nn.Linear):
        body = body[:-1]
    return [unit for child in body for unit in _expanded(child)]


def _expanded(module: nn.Module) -> list[nn.Module]:
    if not _is_chain(module) and not isinstance(module, nn.ModuleList):  # a ModuleList never runs as a whole
        return [module]
    return [unit for child in module.children() for unit in _expanded(child)]


def _is_chain(module: nn.Module) -> bool:
    """Whether ``module`` runs blocks one after the other: most of its weight layers sit in parts that are blocks."""
    if isinstance(module, _CONTAINERS):
        return 2 * sum(w for w in map(_weights, module.children()) if w >= 2) > _weights(module)
    # A stage or backbone of its own class keeps its blocks in containers. Where much else surrounds them, as in blocks
    # that mix convolutions with a small transformer, the inner features are not the module's.
    chains = [p for p in module.children() if isinstance(p, _CONTAINERS) and _is_chain(p)]
    return sum(map(_weights, chains)) > 0.8 * _weights(module)


def _parts(module: nn.Module) -> list[nn.Module]:
    return _grouped(module.children()) if isinstance(module, _CONTAINERS) else []


def _grouped(units: Iterable[nn.Module]) -> list[nn.Module]:
    """One module for each unit with weights: the normalisation or activation that follows it, else the unit itself."""
    units = list(units)
    weighted = sum(_weights(u) > 0 for u in units)
    shared = sum(map(_is_activation, units)) < weighted  # one activation module that runs after several layers
    groups: list[nn.Module] = []
    extends = False
    for unit in units:
        if _weights(unit):
            groups.append(unit)
            extends = True
        elif extends and ("norm" in type(unit).__name__.lower() or (_is_activation(unit) and not shared)):
            groups[-1] = unit
        else:
            extends = False
    return groups


def _is_activation(module: nn.Module) -> bool:
    return "activation" in type(module).__module__ and not _weights(module)


def _weights(module: nn.Module) -> int:
    """Number of convolutions, linear and attention layers in ``module``."""
    return sum(isinstance(m, _WEIGHT_LAYERS) for m in module.modules())


def channel_dim(module: nn.Module, shape: Sequence[int]) -> int:
    """Dimension of the channels in the output of ``module``, of shape (N, ...).

    Channels come second, as in (N, C, H, W), or last, as in the tokens of a transformer (N, T, C) and its images
    (N, H, W, C). The sizes of the module's own weights tell which; without such it is the second, or the last of three.
    """
    last = len(shape) - 1
    if last < 2:
        return 1
    planar = _sizes(module, "out_channels", "num_features", "num_channels")  # convolutions, batch and group norms
    dense = _sizes(module, "out_features", "normalized_shape")  # linear layers and layer norms
    second_fits, last_fits = shape[1] in planar, shape[last] in dense
    if not second_fits and not last_fits:  # weights of the other kind, such as the convolution of a patch embedding
        second_fits, last_fits = shape[1] in dense, shape[last] in planar
    if second_fits != last_fits:
        return 1 if second_fits else last
    return last if last == 2 else 1


def _sizes(module: nn.Module, *names: str) -> set[int]:
    values = [getattr(m, name, None) for m in module.modules() for name in names]
    return {v[-1] if isinstance(v, tuple) else v for v in values if isinstance(v, int) or (isinstance(v, tuple) and v)}
