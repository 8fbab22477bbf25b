"""Reading the features of named layers through forward hooks that are inert except during a pass of ours."""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from simreg._checks import describe
from simreg.layers import layer_modules, resolve_layers

Select = Callable[[Any], Tensor] | int | str
Selects = Select | Mapping[str, Select] | None


class EarlyExit(BaseException):
    """Ends a forward pass after the last tapped layer; a BaseException so that no model's ``except`` swallows it."""


class _Recorder:
    """What the hooks write to: the features of the pass that is running."""

    def __init__(self, selects: Sequence[Select | None], names: Sequence[str]) -> None:
        self.armed = False
        self.exit_early = False
        self.selects = list(selects)
        self.names = list(names)
        self.passes = 0
        self.features: dict[int, Tensor] = {}
        # In-place operations on a recorded output, such as ReLU(inplace=True) after batch norm, would change it
        # afterwards. The first pass, of those that exit early and of those that do not, copies every output and watches
        # which originals change; later passes copy those.
        self.clone: dict[bool, list[bool]] = {}
        self.originals: dict[int, tuple[Tensor, int]] = {}

    def begin(self, *_: Any) -> None:
        """Count a forward pass of the whole model; features of a second one would be lost."""
        if not self.armed or torch.compiler.is_compiling():
            return
        self.passes += 1
        if self.passes > 1:
            raise RuntimeError(
                "a second forward pass of the model while one is being recorded: record one pass at a time, and put "
                "batches that belong together into one."
            )

    def record(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        """Keep the features in the ``output`` of layer ``index``."""
        if not self.armed or index in self.features:  # a module that runs several times is read at its first run
            return
        select = self.selects[index]
        if select is not None:
            output = select(output) if callable(select) else output[select]
        if not isinstance(output, Tensor):
            raise TypeError(
                f"layer {self.names[index]!r} returned {describe(output)}, not a tensor. Pass select=, a function from "
                "the layer's output to one tensor (N, ...), or the key or index of that tensor in the output."
            )
        # Versions are unknown to a compiler, which fuses the copy, and to inference tensors.
        versioned = not torch.compiler.is_compiling() and not output.is_inference()
        clone = self.clone.get(self.exit_early) if versioned else None
        copied = clone is None or clone[index]
        if versioned and not (clone and copied):
            self.originals[index] = (output, output._version)
        # A view where no copy is needed, so that the graph, and with it the order in which gradients are summed, is
        # the same in the first pass as in later ones: a resumed run then repeats an uninterrupted one bit by bit.
        self.features[index] = output.clone() if copied else output.view_as(output)
        if self.exit_early and len(self.features) == len(self.names):
            raise EarlyExit

    def take(self) -> dict[int, Tensor]:
        """Features of the pass that has ended, by layer index; nothing is kept."""
        features, originals = self.features, self.originals
        self.features, self.originals = {}, {}
        changed = {i for i, (tensor, version) in originals.items() if tensor._version != version}
        clone = self.clone.get(self.exit_early)
        if clone is None and len(features) == len(self.names) and originals:
            self.clone[self.exit_early] = [i in changed for i in range(len(self.names))]
        elif clone is not None and changed:
            for i in changed:
                clone[i] = True
            names = ", ".join(repr(self.names[i]) for i in sorted(changed))
            raise RuntimeError(
                f"the output of {names} was overwritten in place during this pass although it was not in the first "
                "one; it is copied from now on. Repeat the step."
            )
        return features


class Hook:
    """A hook that calls a function of ours; copies and pickles of its module hold one that does nothing instead."""

    __name__ = "simreg_hook"  # torch.jit.script asks hooks for their name

    def __init__(self, call: Callable[..., None]) -> None:
        self.call = call

    def __call__(self, *args: Any) -> None:  # noqa: D102
        self.call(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        # Takes any arguments and returns None, as hooks may, and needs no simreg to unpickle.
        return getattr, (contextlib.nullcontext(), "__exit__")


class FeatureTap(contextlib.AbstractContextManager["FeatureTap"]):
    """Features of named layers of a model, read in one forward pass.

    Hooks are registered once, with ``torch.compile`` before the first compiled call, and record only while `record` or
    `features` runs. `close` or leaving the ``with`` block removes them. No features are held between passes.

    Args:
        model: Any module; wrappers such as DistributedDataParallel, FSDP and ``torch.compile`` are looked through.
        layers: Names as in ``model.named_modules()`` without wrapper prefixes, glob patterns whose ``*`` stays within
            one dotted segment, ``"auto"`` (five equally spaced blocks) or ``"early"`` (stem and first stage). Of blocks
            chosen by a preset that return a tuple or list, the first tensor is read.
        select: For layers whose output is not a tensor: a function from output to tensor, or its key or index; or a
            mapping from layer name to such.

    Raises:
        ValueError: If a name or pattern matches no layer (near matches are listed), or no layer is left.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with FeatureTap(model, ["0", "1"]) as tap:
        ...     features = tap.features(torch.zeros(5, 4))
        >>> {name: tuple(f.shape) for name, f in features.items()}
        {'0': (5, 3), '1': (5, 3)}
    """

    def __init__(self, model: nn.Module, layers: str | Sequence[str] = "auto", *, select: Selects = None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {describe(model)}.")
        self.model: nn.Module | None = model
        self.layers = resolve_layers(model, layers)
        if select is None and layers in ("auto", "early"):
            select = first_tensor
        if isinstance(select, Mapping) and not set(select) <= set(self.layers):
            unknown = sorted(set(select) - set(self.layers))
            raise ValueError(f"select names {unknown!r}, which are not among the tapped layers {self.layers!r}.")
        self._select = select
        selects = [select.get(name) if isinstance(select, Mapping) else select for name in self.layers]
        self._recorder = _Recorder(selects, self.layers)
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._before: list[tuple[Callable[[nn.Module], Iterable[nn.Module]], Callable[..., None]]] = []
        self._attach()

    def before(self, modules: Callable[[nn.Module], Iterable[nn.Module]], call: Callable[..., None]) -> None:
        """Let those ``modules`` of the model call ``call`` before they run, whoever runs them, until `close`."""
        self._before.append((modules, call))
        self._handles += [module.register_forward_pre_hook(Hook(call)) for module in modules(self.require_model())]

    def _attach(self) -> None:
        """Register the hooks, once; a copy does so at its first pass, when the copied model is whole."""
        model = self.require_model()
        modules = layer_modules(model)
        self.modules = [modules[name] for name in self.layers]
        record, begin = self._recorder.record, self._recorder.begin
        handles = [m.register_forward_hook(Hook(partial(record, i))) for i, m in enumerate(self.modules)]
        handles.append(model.register_forward_pre_hook(Hook(begin)))
        for select, call in self._before:
            handles += [module.register_forward_pre_hook(Hook(call)) for module in select(model)]
        self._handles, self._finalizer = handles, weakref.finalize(self, remove_hooks, handles)

    @contextlib.contextmanager
    def record(self, *, early_exit: bool = False) -> Iterator[None]:
        """Record the one forward pass that runs inside the block; `take` then gives the features.

        With ``early_exit`` that pass, and the block with it, end once every tapped layer has run. Raises RuntimeError
        if the tap is closed or is recording already, or the model runs twice.
        """
        self.require_model()
        if self._finalizer is None:
            self._attach()
        if self._recorder.armed:
            raise RuntimeError("a pass is being recorded already: end the first one before starting another.")
        self._forget()
        self._recorder.exit_early, self._recorder.passes, self._recorder.armed = early_exit, 0, True
        try:
            with contextlib.suppress(EarlyExit):
                yield
        except BaseException:
            self._forget()
            raise
        finally:
            self._recorder.armed = False

    def take(self) -> dict[str, Tensor]:
        """Features of the pass recorded last, by layer name; the tap lets go of them.

        Raises ValueError if a layer did not run, RuntimeError if one's output was overwritten that was not before.
        """
        features = self._recorder.take()
        missing = [name for i, name in enumerate(self.layers) if i not in features]
        if not missing:
            return {name: features[i] for i, name in enumerate(self.layers)}
        names = ", ".join(map(repr, missing))
        message = f"layers: the forward pass did not reach {names}; the model has it but does not call it. Tap another."
        if len(missing) == len(self.layers):
            message = f"layers: none of {names} ran: no forward pass of this model was recorded."
        if is_compiled(self.require_model()):
            message += (
                " The model is compiled: hooks fire only if they were registered before its first compiled call. "
                "Create the regularizer or tap first, or call torch._dynamo.reset() after creating it."
            )
        raise ValueError(message)

    def features(self, images: Tensor, *, early_exit: bool = False) -> dict[str, Tensor]:
        """Run the model on ``images`` (N, ...): features (N, ...) by layer name, attached to the graph of the pass.

        With ``early_exit`` the pass ends once every tapped layer has run. Raises as `record` and `take`.
        """
        with self.record(early_exit=early_exit):
            self.require_model()(images)
        return self.take()

    def close(self) -> None:
        """Remove the hooks and let go of the model; closing twice is fine."""
        if self._finalizer is not None:
            self._finalizer()
        self.model, self.modules = None, []
        self._forget()

    def _forget(self) -> None:
        self._recorder.features.clear()
        self._recorder.originals.clear()

    def __getstate__(self) -> dict[str, Any]:
        # A copy taps the copied model; hooks do not travel with modules.
        fresh = _Recorder(self._recorder.selects, self.layers)
        return {**self.__dict__, "modules": [], "_recorder": fresh, "_finalizer": None, "_handles": []}

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def require_model(self) -> nn.Module:
        """The tapped model; RuntimeError if the tap is closed."""
        if self.model is None:
            raise RuntimeError("the tap is closed: its hooks are removed. Create a new one.")
        return self.model


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model`` or a part of it runs through ``torch.compile``."""
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())


def is_distributed(model: nn.Module) -> bool:
    """Whether ``model`` or a part of it is wrapped for data-parallel training."""
    kinds = {type(m) for m in model.modules()}
    return any(hasattr(kind, "no_sync") or kind.__name__.startswith(("FSDP", "FullySharded")) for kind in kinds)


def first_tensor(output: Any) -> Any:
    """The first tensor of a tuple or list, for blocks that pass several things on; anything else as it is."""
    if isinstance(output, (tuple, list)):
        return next((part for part in output if isinstance(part, Tensor)), output)
    return output


def check_features(features: Mapping[str, Tensor], images: Tensor) -> Mapping[str, Tensor]:
    """Raise unless the ``features`` of layers are rows of ``images`` on their device that carry a gradient."""
    n, device = images.shape[0], images.device
    for layer, x in features.items():
        if x.ndim < 2 or x.shape[0] != n or x.numel() == 0 or not x.is_floating_point():
            raise ValueError(
                f"layer {layer!r} gives {describe(x)} for {n} images: similarity needs one floating-point row for each "
                "image, (N, ...). Tap another layer, or reshape with select=."
            )
        if x.device != device:
            raise RuntimeError(
                f"features of layer {layer!r} are on {x.device}, the regularizer on {device}: "
                f"call reg.to({str(x.device)!r}) before creating the optimizer."
            )
        if torch.is_grad_enabled() and not x.requires_grad:
            raise ValueError(
                f"layers: the features of {layer!r} carry no gradient, so the penalty cannot change the model: the "
                "layers up to it are frozen, the model ran under no_grad, or re-entrant activation checkpointing hides "
                "the graph (use_reentrant=False mends that). Tap a layer after the frozen ones."
            )
    return features


def remove_hooks(handles: Iterable[RemovableHandle]) -> None:
    """Remove the hooks of these handles; those that are gone already do not matter."""
    for handle in handles:
        handle.remove()
