"""Reading the features of named layers through forward hooks that are inert except during a pass of ours."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simreg._checks import describe
from simreg._hooks import inert_copy, remove_hooks
from simreg.layers import auto_layers, early_layers, layer_modules, match_layers

Select = Callable[[Any], Tensor] | int | str
HandOn = Callable[[int, Tensor, bool], Tensor]


class EarlyExit(BaseException):
    """Ends a forward pass after the last tapped layer; a BaseException so that no model's ``except`` swallows it."""


class _Recorder:
    """What the hooks write to: the features of the pass that is running."""

    def __init__(self, selects: Sequence[Select | None], names: Sequence[str]) -> None:
        self.armed = False
        self.exit_early = False
        self.hand_on: HandOn | None = None
        self.kind = "full"  # of the pass: passes that exit early, hand on or do neither may differ in what is copied
        self.selects = list(selects)
        self.names = list(names)
        self.passes = 0
        self.features: dict[int, Tensor] = {}
        # In-place operations on a recorded output, such as ReLU(inplace=True) after batch norm, would change it
        # afterwards. The first pass copies every output and watches which originals change; later passes copy those.
        self.clone: dict[str, list[bool]] = {}
        self.originals: dict[int, tuple[Tensor, int]] = {}

    def begin(self) -> None:
        """Count a forward pass of the whole model; features of a second one would be lost."""
        self.passes += 1
        if self.passes > 1:
            raise RuntimeError(
                "a second forward pass of the model while one is being recorded: record one pass at a time, and put "
                "batches that belong together into one."
            )

    def record(self, index: int, output: Any) -> Any:
        """Keep the features in ``output``; returns what takes its place, or None."""
        if index in self.features:  # a module that runs several times in a pass is read at its first run
            return None
        tensor = self._selected(index, output)
        # Versions are unknown to a compiler, which fuses the copy, and to inference tensors.
        versioned = not torch.compiler.is_compiling() and not tensor.is_inference()
        clone = self.clone.get(self.kind) if versioned else None
        copied = clone is None or clone[index]
        if self.hand_on is not None:
            return self._handed_on(index, tensor, copied, tensor is output)
        if versioned and not (clone and copied):
            self.originals[index] = (tensor, tensor._version)
        # A view where no copy is needed, so that the graph, and with it the order in which gradients are summed, is
        # the same in the first pass as in later ones: a resumed run then repeats an uninterrupted one bit by bit.
        self.features[index] = tensor.clone() if copied else tensor.view_as(tensor)
        if self.exit_early and len(self.features) == len(self.names):
            raise EarlyExit
        return None

    def _handed_on(self, index: int, tensor: Tensor, copied: bool, replaces: bool) -> Tensor | None:
        assert self.hand_on is not None
        # Where the output is not replaced, the model goes on with the original: the copy is ours then.
        self.features[index] = source = tensor.clone() if copied and not replaces else tensor
        handed = self.hand_on(index, source, copied and replaces)
        watched = handed if replaces else tensor
        if not watched.is_inference():
            self.originals[index] = (watched, watched._version)
        return handed if replaces else None

    def _selected(self, index: int, output: Any) -> Tensor:
        select = self.selects[index]
        if select is not None:
            output = select(output) if callable(select) else output[select]
        if isinstance(output, Tensor):
            return output
        raise TypeError(
            f"layer {self.names[index]!r} returned {describe(output)}, not a tensor. Pass select=, a function from the "
            "layer's output to one tensor (N, ...), or the key or index of that tensor in the output."
        )

    def keep(self, kept: Sequence[int]) -> None:
        """Go on with the layers of these indices."""
        if self.armed:
            raise RuntimeError("a pass is being recorded: its layers can change after it has ended.")
        self.selects = [self.selects[i] for i in kept]
        self.names = [self.names[i] for i in kept]
        self.clone = {early: [clone[i] for i in kept] for early, clone in self.clone.items()}
        self.features = {new: self.features[old] for new, old in enumerate(kept) if old in self.features}
        self.originals = {new: self.originals[old] for new, old in enumerate(kept) if old in self.originals}

    def take(self) -> dict[int, Tensor]:
        """Features of the pass that has ended, by layer index; nothing is kept."""
        features, originals = self.features, self.originals
        self.features, self.originals = {}, {}
        changed = {i for i, (tensor, version) in originals.items() if tensor._version != version}
        clone = self.clone.get(self.kind)
        if clone is None and len(features) == len(self.names) and originals:
            self.clone[self.kind] = [i in changed for i in range(len(self.names))]
        elif clone is not None and any(not clone[i] for i in changed):
            for i in changed:
                clone[i] = True
            names = ", ".join(repr(self.names[i]) for i in sorted(changed))
            raise RuntimeError(
                f"the output of {names} was overwritten in place during this pass although it was not in the first "
                "one; it is copied from now on. Repeat the step."
            )
        return features


class _RecordingHook:
    """Forward hook of one tapped layer; copies and pickles of a model hold a no-op instead."""

    __name__ = "simreg_recording_hook"  # torch.jit.script asks hooks for their name

    def __init__(self, index: int, recorder: _Recorder) -> None:
        self.index = index
        self.recorder = recorder

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return self.recorder.record(self.index, output) if self.recorder.armed else None

    def __reduce__(self) -> tuple[Any, ...]:
        return inert_copy()


class _PassHook:
    """Forward pre-hook of the tapped model."""

    __name__ = "simreg_pass_hook"

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder = recorder

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.recorder.armed and not torch.compiler.is_compiling():
            self.recorder.begin()

    def __reduce__(self) -> tuple[Any, ...]:
        return inert_copy()


class FeatureTap:
    """Features of named layers of a model, read in one forward pass.

    Hooks are registered once and record only while `record` or `features` runs; that costs nothing measurable
    otherwise and is what ``torch.compile`` needs (create the tap before the first compiled call). `close` or leaving
    the ``with`` block removes them. The tap holds no features between passes.

    Args:
        model: Any module; wrappers such as DistributedDataParallel, FSDP and ``torch.compile`` are looked through.
        layers: Names as in ``model.named_modules()`` without wrapper prefixes, glob patterns whose ``*`` stays within
            one dotted segment, ``"auto"`` (five equally spaced blocks) or ``"early"`` (stem and first stage). Of blocks
            chosen by a preset that return a tuple or list, the first tensor is read.
        select: For layers whose output is not a tensor: a function from output to tensor, or its key or index; or a
            mapping from layer name to such.

    Attributes:
        layers: The resolved names, in the order given (patterns and presets: in the order of the model).

    Raises:
        ValueError: If a name or pattern matches no layer (near matches are listed), or no layer is left.
        TypeError: If ``model`` is not a module, or ``layers`` not names.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with FeatureTap(model, ["0", "1"]) as tap:
        ...     features = tap.features(torch.zeros(5, 4))
        >>> {name: tuple(f.shape) for name, f in features.items()}
        {'0': (5, 3), '1': (5, 3)}
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] = "auto",
        *,
        select: Select | Mapping[str, Select] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {describe(model)}.")
        self.model: nn.Module | None = model
        self.layers = resolve_layers(model, layers)
        if select is None and layers in ("auto", "early"):
            select = first_tensor
        self._select = select
        self._recorder = _Recorder(_selects(select, self.layers), self.layers)
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._attach()

    def _attach(self) -> None:
        """Register the hooks, once; a copy does so at its first pass, when the copied model is whole."""
        model = self.require_model()
        modules = layer_modules(model)
        self.modules = [modules[name] for name in self.layers]
        self._hooks = [_RecordingHook(i, self._recorder) for i in range(len(self.modules))]
        handles = [m.register_forward_hook(hook) for m, hook in zip(self.modules, self._hooks, strict=True)]
        handles.append(model.register_forward_pre_hook(_PassHook(self._recorder)))
        self._handles = handles
        self._finalizer = weakref.finalize(self, remove_hooks, handles)

    @contextlib.contextmanager
    def record(self, hand_on: HandOn | None = None) -> Iterator[None]:
        """Record the one forward pass that runs inside the block; `take` then gives the features.

        Args:
            hand_on: Called with the index of a layer, its features and whether the next layers may overwrite them;
                gives the tensor that takes their place in the model.

        Raises:
            RuntimeError: If the tap is closed or is recording already, or the model runs twice.
        """
        self._arm(exit_early=False, hand_on=hand_on)
        try:
            yield
        except BaseException:
            self._recorder.features.clear()
            self._recorder.originals.clear()
            raise
        finally:
            self._disarm()

    def take(self) -> dict[str, Tensor]:
        """Features of the pass recorded last, by layer name; the tap lets go of them.

        Raises:
            ValueError: If a tapped layer did not run.
            RuntimeError: If an output was overwritten in place that was not before.
        """
        features = self._recorder.take()
        missing = [name for i, name in enumerate(self.layers) if i not in features]
        if missing:
            raise ValueError(self._missing_message(missing))
        return {name: features[i] for i, name in enumerate(self.layers)}

    def features(self, images: Tensor, *, early_exit: bool = False) -> dict[str, Tensor]:
        """Run the model on ``images`` and return the features of the tapped layers.

        Args:
            images: Input of the model, shape (N, ...).
            early_exit: Stop the forward pass once every tapped layer has run.

        Returns:
            Features by layer name, shape (N, ...) each, attached to the graph of the pass.

        Raises:
            ValueError: If a tapped layer did not run.
            RuntimeError: If the tap is closed.
        """
        self._arm(exit_early=early_exit)
        try:
            with contextlib.suppress(EarlyExit):
                self.require_model()(images)
        except BaseException:
            self._recorder.features.clear()
            self._recorder.originals.clear()
            raise
        finally:
            self._disarm()
        return self.take()

    def keep(self, layers: Sequence[str]) -> None:
        """Tap only these of the present layers from now on, in this order; the hooks of the others are removed.

        The hooks that stay are the same ones, which a compiled model needs.

        Args:
            layers: Names among `layers`, each once.

        Raises:
            ValueError: If a name is not among them, comes twice, or there is none.
            RuntimeError: If the tap is closed, or a pass is being recorded.
        """
        self.require_model()
        layers = list(layers)
        if not layers or len(set(layers)) < len(layers) or not set(layers) <= set(self.layers):
            raise ValueError(f"layers must be some of {self.layers!r}, each once, got {layers!r}.")
        kept = [self.layers.index(name) for name in layers]
        self._recorder.keep(kept)
        self.layers = layers
        if isinstance(self._select, Mapping):
            self._select = {name: select for name, select in self._select.items() if name in layers}
        if self._finalizer is None:  # a copy that has not run yet
            return
        remove_hooks(handle for i, handle in enumerate(self._handles[:-1]) if i not in kept)
        self._handles[:] = [self._handles[i] for i in (*kept, -1)]  # in place: the finalizer holds this list
        self.modules = [self.modules[i] for i in kept]
        self._hooks = [self._hooks[i] for i in kept]
        for index, hook in enumerate(self._hooks):
            hook.index = index

    def close(self) -> None:
        """Remove the hooks and let go of the model; closing twice is fine."""
        if self._finalizer is not None:
            self._finalizer()
        self.model = None
        self.modules = []
        self._recorder.features.clear()
        self._recorder.originals.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy taps the copied model; hooks do not travel with modules.
        return _rebuild, (self.model, self.layers, self._select)

    def __enter__(self) -> FeatureTap:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def require_model(self) -> nn.Module:
        """The tapped model.

        Raises:
            RuntimeError: If the tap is closed.
        """
        if self.model is None:
            raise RuntimeError("the tap is closed: its hooks are removed. Create a new one.")
        return self.model

    def _arm(self, *, exit_early: bool, hand_on: HandOn | None = None) -> None:
        self.require_model()
        if self._finalizer is None:
            self._attach()
        if self._recorder.armed:
            raise RuntimeError("a pass is being recorded already: end the first one before starting another.")
        self._recorder.features.clear()
        self._recorder.originals.clear()
        self._recorder.exit_early = exit_early
        self._recorder.hand_on = hand_on
        self._recorder.kind = "early" if exit_early else "full" if hand_on is None else "handed on"
        self._recorder.passes = 0
        self._recorder.armed = True

    def _disarm(self) -> None:
        self._recorder.armed = False
        self._recorder.exit_early = False
        self._recorder.hand_on = None

    def _missing_message(self, missing: Sequence[str]) -> str:
        names = ", ".join(map(repr, missing))
        message = f"layers: the forward pass did not reach {names}; the model has it but does not call it. Tap another."
        if len(missing) == len(self.layers):
            message = f"layers: none of {names} ran: no forward pass of this model was recorded."
        if self.model is not None and is_compiled(self.model):
            message += (
                " The model is compiled: hooks fire only if they were registered before its first compiled call. "
                "Create the regularizer or tap first, or call torch._dynamo.reset() after creating it."
            )
        return message


def resolve_layers(model: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """Names of the layers that ``layers`` asks for; see `FeatureTap`."""
    if layers == "auto":
        return auto_layers(model)
    if layers == "early":
        return early_layers(model)
    patterns = [layers] if isinstance(layers, str) else list(layers)
    if not patterns or not all(isinstance(p, str) for p in patterns):
        raise TypeError(f'layers must be layer names, patterns, "auto" or "early", got {layers!r}.')
    return match_layers(model, patterns)


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model`` or a part of it runs through ``torch.compile``."""
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())


def is_distributed(model: nn.Module) -> bool:
    """Whether ``model`` or a part of it is wrapped for data-parallel training."""
    kinds = {type(m) for m in model.modules()}
    return any(hasattr(kind, "no_sync") or kind.__name__.startswith(("FSDP", "FullySharded")) for kind in kinds)


def _selects(select: Select | Mapping[str, Select] | None, layers: Sequence[str]) -> list[Select | None]:
    if not isinstance(select, Mapping):
        return [select] * len(layers)
    unknown = sorted(set(select) - set(layers))
    if unknown:
        raise ValueError(f"select names {unknown!r}, which are not among the tapped layers {list(layers)!r}.")
    return [select.get(name) for name in layers]


def first_tensor(output: Any) -> Any:
    """The first tensor of a tuple or list, for blocks that pass several things on; anything else as it is."""
    if isinstance(output, (tuple, list)):
        return next((part for part in output if isinstance(part, Tensor)), output)
    return output


def _rebuild(model: nn.Module | None, layers: list[str], select: Select | Mapping[str, Select] | None) -> FeatureTap:
    tap = FeatureTap.__new__(FeatureTap)
    tap.model, tap.layers, tap.modules = model, layers, []
    tap._select, tap._recorder, tap._finalizer = select, _Recorder(_selects(select, layers), layers), None
    return tap
