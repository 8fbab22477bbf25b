"""`SimilarityRegularizer`: from the features of a model to one term of its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from simreg import functional as F
from simreg import kernels
from simreg._checks import (
    capturing,
    check_choice,
    check_images,
    check_pairs,
    check_positive,
    check_tensor,
    check_unit_range,
    describe,
    readable,
)
from simreg._outputs import like, rows_of
from simreg._pruning import check_optimizer, layers_to_keep, layers_to_load, note_layers, shrink, shrink_state
from simreg._watch import ExtremeTargetWatch, OptimizerWatch, ZeroGradientWatch
from simreg.batch import PairBatch
from simreg.batchnorm import (
    BATCH_NORM_POLICIES,
    AuxiliaryStatistics,
    BatchNormPolicy,
    RecomputeGuard,
    batch_norm_policy,
)
from simreg.centering import ChannelMeans
from simreg.cost import CostEstimate, Mode, estimate
from simreg.features import FeatureTap, Select, is_compiled, is_distributed
from simreg.functional import CENTERINGS, CONVENTIONS, TRANSFORMS, Centering, Convention, Transform, check_clamp
from simreg.kernels import BACKENDS, Backend
from simreg.layers import channel_dim
from simreg.pool import Pairing
from simreg.targets import Target, check_similarity_range, unit_float

_NORM_FLOOR = 1e-8
_AUGMENTED = 0.3  # how far augmentation, such as added noise, may take images out of [0, 1]
_CHECKED_CALLS = 20  # calls whose target values are looked at, which on a GPU synchronises


class SimilarityRegularizer(nn.Module):
    r"""Penalty that makes a model's feature similarities follow target similarities.

    .. math::
        \alpha L_\text{sim}, \qquad L_\text{sim} = \frac{1}{P} \sum_p
        \big(2\,\mathrm{arctanh}\,S_p - 2\,\mathrm{arctanh}\,T_p\big)^2, \qquad
        S_p = \sum_l \gamma_l \cos\big(x^{(l)}_i - m^{(l)},\, x^{(l)}_j - m^{(l)}\big), \quad (i, j) = \text{pair } p

    (convention ``"official"``; γ is the softmax of the layer logits, m the running channel means.)
    Three ways to use it:

    * ``loss = criterion(model(x), y) + reg(batch)`` with batches of a `RegularizationPool`;
    * ``with reg.observe(): logits = model(x)``, then ``reg.penalty(x01)``: the task batch, no extra forward pass;
    * ``logits, penalty = reg.joint(x, batch)``: one forward pass for both, the mode for DDP and FSDP.

    The regularizer owns its layer logits and running means only: the model is neither in its ``parameters()`` nor in
    its ``state_dict()``. Give its parameters to the optimizer, best as ``reg.parameter_group()``.

    Args:
        model: The model that is trained, as it is called in training: wrapped if it is wrapped.
        layers: Names, globs, ``"auto"`` (five equally spaced blocks, as in the paper) or ``"early"`` (stem and first
            stage, where the learned weights end up); see `FeatureTap`.
        target: Needed where images come without target similarities: ``reg(images)`` and ``reg.penalty(images)``.
        alpha: Strength, at least 0; may be changed at any time. 0 trains bit-identically to no regularizer.
        convention: Units of ``alpha``, see `similarity_loss` and `convert_alpha`.
        pairing: ``"pairs"`` compares row i with row k + i of 2k images, ``"all"`` every pair i < j of a batch.
        centering: ``"channel"`` (running per-channel mean, the authors' code), ``"batch"``, ``"image"`` or ``"none"``.
        transform: ``"arctanh"``, or ``"none"`` for plain squared differences.
        target_clamp: Bound on target similarities in (0, 1], such as 0.95. With arctanh, unbounded ±1 targets make
            training collapse once they are not rare.
        layer_weights: ``"learned"``, ``"uniform"``, or fixed non-negative weights in the order of `layers`.
        batch_norm: What the regularization pass does to batch norm: ``"update"`` (as any training pass), ``"freeze"``
            (batch statistics, buffers untouched), ``"eval"`` (running statistics), ``"separate"`` (running statistics
            of its own, for evaluation passes and checkpoints of the regularizer), ``"official"`` (the authors' two
            passes, rows and columns of the pairs apart). `observe` has no such pass; `joint` allows ``"update"`` only.
        early_exit: Stop the regularization pass after the last tapped layer; ``"auto"`` does unless the model is
            compiled or distributed.
        backend: Of the similarity: ``"auto"`` takes the fastest that can run, see `simreg.kernels`; one that is
            named and cannot run raises.
        attach: Take the similarity while the model runs under `observe`, and let one pass write the gradient of
            both, task and penalty: no extra memory for the penalty's. Tapped modules then return a view of their
            output (a copy where the next layer overwrites it), and with ``pairing="pairs"`` ``penalty`` takes no
            other pairs. Not for layers under activation checkpointing, which torch then refuses; without effect on
            compiled models.
        select: For layers whose output is not a tensor, see `FeatureTap`.

    Raises:
        ValueError: If a choice or a layer is unknown (near matches are listed), or a number is out of range.
        TypeError: If an argument has the wrong type.

    Source: the paper, and Li et al. 2019; see `simreg.functional`.

    Example:
        >>> from simreg import PixelTarget
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
        >>> reg = SimilarityRegularizer(model, layers=["1"], target=PixelTarget(), pairing="all")
        >>> x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
        >>> with reg.observe():
        ...     logits = model(x)
        >>> loss = nn.functional.cross_entropy(logits, y) + reg.penalty(x)
        >>> loss.backward()
        >>> reg.layer_weights
        {'1': 1.0}
    """

    layer_logits: nn.Parameter

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] = "auto",
        *,
        target: Target | None = None,
        alpha: float = 10.0,
        convention: Convention = "official",
        pairing: Pairing = "pairs",
        centering: Centering = "channel",
        transform: Transform = "arctanh",
        target_clamp: float | None = None,
        layer_weights: Literal["learned", "uniform"] | Sequence[float] = "learned",
        batch_norm: BatchNormPolicy = "update",
        early_exit: bool | Literal["auto"] = "auto",
        backend: Backend = "auto",
        attach: bool = False,
        select: Select | Mapping[str, Select] | None = None,
    ) -> None:
        super().__init__()
        check_choice("convention", convention, CONVENTIONS)
        check_choice("pairing", pairing, ("pairs", "all"))
        check_choice("centering", centering, CENTERINGS)
        check_choice("transform", transform, TRANSFORMS)
        check_choice("batch_norm", batch_norm, BATCH_NORM_POLICIES)
        check_choice("backend", backend, BACKENDS)
        if early_exit not in (True, False, "auto"):
            raise ValueError(f'early_exit must be True, False or "auto", got {early_exit!r}.')
        if target is not None and not isinstance(target, Target):
            raise TypeError(f"target must be a target such as PixelTarget(), got {describe(target)}.")
        if batch_norm == "official" and pairing == "all":
            raise ValueError('batch_norm="official" passes the halves of the pairs apart: it needs pairing="pairs".')
        self.target = target
        self.alpha = alpha
        self.convention = convention
        self.pairing = pairing
        self.centering = centering
        self.transform = transform
        self.target_clamp = check_clamp(target_clamp)
        self.batch_norm = batch_norm
        self.early_exit = early_exit
        self.backend = backend
        self.attach = attach
        if attach and backend == "reference":
            raise ValueError('attach=True needs the fused kernels: use backend="auto".')
        self._tap = FeatureTap(model, layers, select=select)
        self._own_state(model, layer_weights)
        self._observed: dict[str, Tensor] | None = None
        self._handed_on: dict[str, tuple[Tensor, Tensor]] = {}  # products and center of the layers
        self._last: dict[str, Tensor] | None = None
        self._calls = 0
        self._extreme_targets = ExtremeTargetWatch()
        self._gradients = ZeroGradientWatch()
        self._optimizers = OptimizerWatch()
        self._guard = RecomputeGuard(batch_norm)

    def _own_state(self, model: nn.Module, layer_weights: str | Sequence[float]) -> None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        logits, learned = _initial_logits(layer_weights, self.layers)
        self.layer_logits = nn.Parameter(logits.to(device), requires_grad=learned)
        self.channel_means = ChannelMeans(len(self.layers), device)
        self._auxiliary = AuxiliaryStatistics(model) if self.batch_norm == "separate" else None

    @property
    def alpha(self) -> float:
        """Strength of the penalty, at least 0; may be set at any time."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        check_positive("alpha", alpha, zero=True)
        self._alpha = alpha

    @property
    def layers(self) -> list[str]:
        """Resolved names of the tapped layers."""
        return self._tap.layers

    @property
    def layer_weights(self) -> dict[str, float]:
        """Softmax weights of the layers by name."""
        weights = torch.softmax(self.layer_logits.detach().float(), dim=0)
        return dict(zip(self.layers, weights.tolist(), strict=True))

    @property
    def stats(self) -> dict[str, Any]:
        """Diagnostics of the last penalty: reading them synchronises, computing the penalty does not.

        Returns:
            ``loss`` (L_sim), ``penalty`` (alpha times it), ``correlation`` of similarities and targets over pairs
            (NaN if either is constant), ``target_share`` (share of targets of ±1, before any clamp),
            ``similarity_spread`` (standard deviation over pairs, by layer) and ``layer_weights``; empty before the
            first penalty.
        """
        if self._last is None:
            return {}
        mixed, target, layered = (self._last[k].double() for k in ("similarity", "target", "layers"))
        loss = float(self._last["loss"])
        return {
            "loss": loss,
            "penalty": self.alpha * loss,
            "correlation": _correlation(mixed, target),
            "target_share": float((target.abs() >= 0.999).double().mean()),
            "similarity_spread": dict(zip(self.layers, layered.std(dim=1, correction=0).tolist(), strict=True)),
            "layer_weights": self.layer_weights,
        }

    def prune_layers(self, min_weight: float, *, optimizer: torch.optim.Optimizer | None = None) -> list[str]:
        r"""Drop the layers whose weight is below ``min_weight``; at least the heaviest stays.

        Where the learned weights have collapsed on shallow layers, the regularization pass then ends earlier. The
        layers that stay keep their logits :math:`a` and running means, and the loss is that of a regularizer made with
        them alone: :math:`\gamma_l = e^{a_l} / \sum_{m\ \text{kept}} e^{a_m}`. `layer_logits` stays the same parameter,
        with fewer entries. Fixed weights are renormalised alike.

        Call it between ``optimizer.step()`` and the next forward pass: a loss computed before can no longer be
        differentiated. A pass that `observe` has recorded goes on with the layers that stay. In distributed training
        call it in every process, with equal logits, and not where the logits are part of a wrapped model. The state
        dict names the layers, so that it also loads into a regularizer with all layers, which then drops the same.

        Args:
            min_weight: Bound on the softmax weights, in (0, 1).
            optimizer: The one that holds the layer logits. What it keeps for them in their shape, such as momentum
                or Adam's averages, is cut alike. By default the one that was seen to step over them, so pass it
                where none has stepped since the regularizer was made or loaded. LBFGS is not supported.

        Returns:
            Names of the layers dropped.

        Raises:
            ValueError: If ``min_weight`` is outside (0, 1), or ``optimizer`` does not hold learned logits.
            TypeError: If an argument has the wrong type.
            RuntimeError: If the regularizer is closed, or inside `observe`.

        Example:
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
            >>> reg = SimilarityRegularizer(model, layers=["0", "1", "2"])
            >>> reg.layer_logits.data = torch.tensor([4.0, 4.0, 0.0])
            >>> reg.prune_layers(0.05)
            ['2']
            >>> reg.layer_weights
            {'0': 0.5, '1': 0.5}
        """
        self._tap.require_model()
        check_optimizer(optimizer, self.layer_logits)
        kept = layers_to_keep(list(self.layer_weights.values()), min_weight)
        dropped = [name for i, name in enumerate(self.layers) if i not in kept]
        if dropped:
            self._keep([self.layers[i] for i in kept], optimizer)
        return dropped

    def parameter_group(self) -> dict[str, Any]:
        """The layer logits as an optimizer group without weight decay."""
        return {"params": [self.layer_logits], "weight_decay": 0.0}

    def forward(
        self, batch: PairBatch | Tensor, *, targets: Tensor | None = None, pairs: Tensor | None = None
    ) -> Tensor:
        """Run the model on regularization images and return ``alpha * L_sim``, ready to add to the loss.

        Args:
            batch: A `PairBatch`, or images (N, C, H, W) as the model takes them. Images come with ``targets``, or the
                regularizer has a ``target``, which then is computed from these very images, in [0, 1].
            targets: Target similarities in [-1, 1]: (P,), or a matrix (N, N).
            pairs: Shape (P, 2), int64: rows of the images. By default as ``pairing`` says.

        Returns:
            A scalar; float32, or float64 for a model in float64.

        Raises:
            ValueError: If shapes or values do not fit, a tapped layer did not run, or its features carry no gradient.
            RuntimeError: If the regularizer is closed.
        """
        self._observed = None
        self._handed_on = {}
        if self.alpha == 0:
            return self._nothing()
        given = batch.pairs if isinstance(batch, PairBatch) else pairs
        if given is not None and self.batch_norm == "official":
            raise ValueError('batch_norm="official" passes rows i and k + i apart: it takes no other pairs.')
        images, targets, pairs = self._inputs(batch, targets, pairs)
        return self._penalty(self._features(images), targets, pairs, images.shape[0])

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Record the features of the one forward pass inside the block, for `penalty`.

        Raises:
            ValueError: If a tapped layer did not run.
            RuntimeError: If the model runs twice inside the block, or the regularizer is closed.
        """
        self._observed = None
        self._handed_on = {}
        if self.alpha == 0:
            yield
            return
        # A compiled model cannot call back into Python during the pass.
        attached = self.attach and not torch.compiler.is_compiling() and not is_compiled(self._tap.require_model())
        try:
            with self._tap.record(self._attached if attached else None):
                yield
            self._observed = self._tap.take()
        except BaseException:
            self._handed_on = {}
            raise

    def _attached(self, index: int, features: Tensor, copied: bool) -> Tensor:
        """Take the similarity of layer ``index`` during the pass; gives the features that the next layers get."""
        n = features.shape[0]
        if n < 2 or (self.pairing == "pairs" and n % 2):
            return features  # `penalty` says what is wrong
        self._check_features(index, features, n)
        dim = channel_dim(self._tap.modules[index], features.shape)
        means = self.channel_means
        mean = means.mean(index, features, dim) if self.centering == "channel" else None
        paired = self.pairing == "pairs"
        name = kernels.choose(self.backend, [features], paired)
        handed, products, center = kernels.attach(
            features,
            dim,
            mean,
            paired=paired,
            centering=self.centering,
            momentum=means.momentum,
            backend=name,
            copy=copied,
        )
        self._handed_on[self.layers[index]] = (products, center)
        return handed

    def penalty(self, images_or_targets: Tensor, pairs: Tensor | None = None) -> Tensor:
        """``alpha * L_sim`` of the pass recorded by `observe`; its features are let go.

        The first 20 penalties look at the values of targets and images, which on a GPU synchronises.

        Args:
            images_or_targets: The images of that pass, (N, C, H, W), uint8 or in [0, 1], for the regularizer's
                ``target``; or target similarities, a matrix (N, N) or (P,).
            pairs: Shape (P, 2), int64: rows of the batch. By default as ``pairing`` says.

        Returns:
            A scalar.

        Raises:
            ValueError: If shapes or values do not fit, or features carry no gradient.
            RuntimeError: If no pass was observed.
        """
        if self.alpha == 0:
            return self._nothing()
        if self._observed is None:
            raise RuntimeError("no forward pass to penalise: run the model inside `with reg.observe():` first, once.")
        features, self._observed = self._observed, None
        handed, self._handed_on = self._handed_on, {}
        n = next(iter(features.values())).shape[0]
        pairs = self._check_pairs(pairs, n)
        check_tensor("images_or_targets", images_or_targets)
        if images_or_targets.ndim > 2:
            if images_or_targets.shape[0] != n:
                raise ValueError(f"images: the observed pass had {n} rows, got {images_or_targets.shape[0]} images.")
            targets, pairs = self._computed(images_or_targets, pairs)
        else:
            targets = images_or_targets
        return self._penalty(features, targets, pairs, n, handed)

    def joint(self, x: Tensor, batch: PairBatch | Tensor) -> tuple[Any, Tensor]:
        """One forward pass for task and regularization images.

        Batch norm normalises both together; only ``batch_norm="update"`` is possible.

        Args:
            x: Task images as the model takes them, (B, C, H, W).
            batch: As for `forward`; images of the same shape.

        Returns:
            The model's output for ``x`` alone, and ``alpha * L_sim``.

        Raises:
            ValueError: If shapes or values do not fit, or another batch-norm policy is set.
            RuntimeError: As for `forward`.
        """
        if self.batch_norm != "update":
            raise ValueError(
                f"batch_norm={self.batch_norm!r}: a joint pass normalises task and regularization images together; "
                'use batch_norm="update", or call reg(batch) for a pass of its own.'
            )
        self._observed = None
        self._handed_on = {}
        if self.alpha == 0:
            return self._tap.require_model()(x), self._nothing()
        images, targets, pairs = self._inputs(batch, None, None)
        if images.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"images of shape {tuple(images.shape[1:])} and task images of shape {tuple(x.shape[1:])} cannot "
                "share a pass: resize one (RegularizationPool(transform=...)), or call reg(batch)."
            )
        with self._tap.record():
            output = self._tap.require_model()(torch.cat([x, like(images, x)]))
        features = {name: f[x.shape[0] :] for name, f in self._tap.take().items()}
        return rows_of(output, x.shape[0]), self._penalty(features, targets, pairs, images.shape[0])

    def cost(
        self, batch_size: int, pairs: int | None = None, *, example: Tensor, mode: Mode = "separate"
    ) -> CostEstimate:
        """What a regularized step costs: FLOPs, expected time, memory; nothing is trained or changed.

        Counted are the FLOPs of convolutions, matrix products and attention in forward passes of two images, in the
        model's present mode (best that of training), scaled to the batch. Backward counts twice forward, whatever is
        frozen. The regularization pass ends after the last tapped layer where `early_exit` says so. Not counted:
        elementwise operations, optimizer, data loading, targets. The expected time is the ratio of FLOPs: it is too
        low where the tapped layers are shallow and large, since these take more time per FLOP. It holds for images
        that all differ: with ``pool.batches(distinct=True)`` there are fewer.

        ``extra_memory`` is what autograd keeps of the regularization images for backward (layers' inputs and outputs,
        the images too), features that only the similarity keeps, and the similarity's own gradient, once the tapped
        features (none of its own under `observe` with ``attach=True``). ``"joint"`` pads that gradient to the task
        images and copies these. Not counted: gradients of the model on their way through it, targets, small tensors.
        Call it inside ``torch.autocast`` if training uses that.

        Args:
            batch_size: B, task images of a step.
            pairs: k, pairs of a step. With pairing ``"pairs"`` that is 2k images, with ``"all"`` the fewest n with
                n (n - 1) / 2 >= k. With ``"observe"`` by default those that ``pairing`` makes of the batch.
            example: Images as the model takes them, (N, C, H, W), N >= 1, of which the first two are used (one is
                repeated). Task and regularization images are taken to have this size.
            mode: ``"separate"`` for ``reg(batch)``, ``"observe"`` for the task batch itself, ``"joint"``.

        Returns:
            The estimate; ``print`` it for a summary.

        Raises:
            ValueError: If an argument is out of range, or the model is wrapped by FSDP (estimate before that).
            TypeError: If an argument has the wrong type.
            RuntimeError: If the regularizer is closed, or inside `observe`.

        Example:
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten())
            >>> reg = SimilarityRegularizer(model, layers=["1"])
            >>> print(reg.cost(64, 16, example=torch.zeros(1, 1, 32, 32)))
            separate: 64 images and 16 pairs a step, 32 more images up to the last tapped layer
            FLOP a step: plain 99.1 M, regularized 106 M (similarity 1.04 M): 1.07 times the plain step
            memory: 1.05 MB more; the similarity reads and writes 1.38 MB
            features of an image: 1 4x30x30 (14.4 kB)
        """
        exits = self._exits_early(self._tap.require_model())
        images = self._to_model(check_images("example", example).to(self._device()))
        return estimate(
            self._tap,
            images,
            batch_size,
            pairs,
            mode=mode,
            pairing=self.pairing,
            early_exit=exits,
            attached=self.attach and mode == "observe",
        )

    def _keep(self, layers: list[str], optimizer: torch.optim.Optimizer | None = None) -> None:
        """Go on with these layers."""
        size, kept = len(self.layers), [self.layers.index(name) for name in layers]
        self._tap.keep(layers)
        shrink(self.layer_logits, kept)
        for holder in (optimizer, self._optimizers.holder()):
            if holder is not None:
                shrink_state(holder, self.layer_logits, size, kept)
        self.channel_means.keep(kept)
        if self._observed is not None:
            self._observed = {name: self._observed[name] for name in layers}
        self._handed_on = {name: found for name, found in self._handed_on.items() if name in layers}
        if self._last is not None:
            self._last["layers"] = self._last["layers"][kept]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        note_layers(destination, prefix, self.layers)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *args: Any
    ) -> None:
        saved = state_dict.get(prefix + "layer_logits")
        if isinstance(saved, Tensor) and saved.shape != self.layer_logits.shape:
            self._keep(layers_to_load(saved, local_metadata, self.layers))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def close(self) -> None:
        """Remove all hooks and let go of the model; closing twice is fine."""
        self._tap.close()
        self._optimizers.stop()
        self._guard.close()
        self._observed = None
        self._handed_on = {}

    def __getstate__(self) -> dict[str, Any]:
        # Features and diagnostics of a pass hang on its graph and do not travel with copies.
        return {**self.__dict__, "_observed": None, "_handed_on": {}, "_last": None}

    def __enter__(self) -> SimilarityRegularizer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def extra_repr(self) -> str:
        """Layers and strength."""
        return f"layers={self.layers}, alpha={self.alpha}, convention={self.convention!r}, pairing={self.pairing!r}"

    def _nothing(self) -> Tensor:
        return torch.zeros((), device=self.layer_logits.device)

    def _inputs(
        self, batch: PairBatch | Tensor, targets: Tensor | None, pairs: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Images, targets and pairs, on the device of the regularizer."""
        device = self._device()
        if isinstance(batch, PairBatch):
            if targets is not None or pairs is not None:
                raise ValueError("targets and pairs belong to images; a PairBatch has its own.")
            batch = batch.to(device, non_blocking=True) if batch.images.device != device else batch
            if batch.pairs is None and self.pairing == "all":
                raise ValueError(
                    'pairing="all" needs the targets of all pairs: draw batches with pool.batches(..., pairing="all").'
                )
            return self._to_model(batch.images), batch.targets, batch.pairs
        images = unit_float(check_images("images", batch)).to(device)
        pairs = self._check_pairs(pairs, images.shape[0])
        if targets is None:
            targets, pairs = self._computed(images, pairs)
        return self._to_model(images), targets, pairs

    def _device(self) -> torch.device:
        """Device of the regularizer, which must be that of the model."""
        device = self.layer_logits.device
        parameter = next(self._tap.require_model().parameters(), None)
        if parameter is not None and parameter.device != device:
            raise RuntimeError(
                f"the model is on {parameter.device}, the regularizer on {device}: call "
                f"reg.to({str(parameter.device)!r}) before creating the optimizer."
            )
        return device

    def _to_model(self, images: Tensor) -> Tensor:
        """Images in floating point, of the model's dtype."""
        images = unit_float(images)
        parameter = next(self._tap.require_model().parameters(), None)
        return images if parameter is None or not parameter.is_floating_point() else images.to(parameter.dtype)

    def _check_pairs(self, pairs: Tensor | None, n: int) -> Tensor | None:
        """``pairs`` on the regularizer's device, after checks of shape and batch size."""
        if n < 2:
            raise ValueError(f"images: a pair needs at least 2 rows, got {n}.")
        if pairs is None:
            if self.pairing == "pairs" and n % 2:
                raise ValueError(f'images: pairing="pairs" needs an even number of rows, got {n}; or pass pairs=.')
            return None
        return check_pairs(pairs, n).to(self.layer_logits.device)

    def _pairs_of(self, n: int, pairs: Tensor | None) -> Tensor:
        if pairs is not None:
            return pairs
        device = self.layer_logits.device
        if self.pairing == "all":
            return F.all_pairs(n, device)
        rows = torch.arange(n // 2, device=device)
        return torch.stack([rows, rows + n // 2], dim=1)

    def _computed(self, images: Tensor, pairs: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Targets of these images and the pairs they belong to: those that the target selects."""
        if self.target is None:
            raise ValueError("target: images came without target similarities; set target=PixelTarget(), or pass them.")
        early = self._calls < _CHECKED_CALLS and not torch.compiler.is_compiling() and not capturing(images)
        if readable(images) or early:
            check_unit_range("images", images, tolerance=_AUGMENTED)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            rows = self.target.representation(images)  # (N, R)
            chosen = self._pairs_of(images.shape[0], pairs).to(images.device)
            i, j = chosen.unbind(1)
            # One matrix product for all pairs, instead of a copy of both rows for each of them.
            base = self.target.outer(rows, rows)[i, j] if self.pairing == "all" else self.target.inner(rows[i], rows[j])
            selected = self.target.selected(base)
            if selected is not None:
                base, pairs = base[selected], chosen[selected].to(self.layer_logits.device)
            return self.target.shape(base), pairs

    @property
    def _steep(self) -> bool:
        """Whether ±1 targets meet the poles of arctanh."""
        return self.transform == "arctanh" and (self.target_clamp is None or self.target_clamp >= 0.999)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        model = self._tap.require_model()
        exits = self._exits_early(model)
        if self.batch_norm != "official":
            self._guard.attach(model)
            with batch_norm_policy(model, self.batch_norm, self._auxiliary):
                return self._tap.features(images, early_exit=exits)
        if images.shape[0] % 2:
            raise ValueError(f'batch_norm="official" passes two halves of the batch, got {images.shape[0]} images.')
        rows, columns = (self._tap.features(half, early_exit=exits) for half in images.chunk(2))
        return {name: torch.cat([rows[name], columns[name]]) for name in self.layers}

    def _exits_early(self, model: nn.Module) -> bool:
        if self.early_exit != "auto":
            return bool(self.early_exit)
        # An exception would end the forward of a compiled model in a graph break, and that of a distributed wrapper
        # before it has prepared the reduction of gradients.
        return not (is_compiled(model) or is_distributed(model))

    def _penalty(
        self,
        features: Mapping[str, Tensor],
        targets: Tensor,
        pairs: Tensor | None,
        n: int,
        handed: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        targets = self._checked_targets(targets, pairs, n)
        if targets.numel() == 0:  # the target selects no pair of this batch
            return self._nothing()
        for index, feature in enumerate(features.values()):
            self._check_features(index, feature, n)
        watched = {name: products for name, (products, _) in handed.items()} if handed else features
        if handed:
            found = self._compared_in_passing(features, handed, targets, pairs, n)
        else:
            found = self._compared(list(features.values()), targets, pairs, n)
        self._last = {
            "loss": found.loss.detach(),
            "similarity": found.similarity.detach(),
            "target": targets.detach(),
            "layers": found.layers.detach(),
        }
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not capturing(found.loss):
            self._watch(watched, found.loss)
        return self.alpha * found.loss

    def _compared(self, features: Sequence[Tensor], targets: Tensor, pairs: Tensor | None, n: int) -> kernels.Penalty:
        """L_sim of the features, by the backend that fits; updates the running means."""
        paired = self.pairing == "pairs" and pairs is None
        name = kernels.choose(self.backend, features, paired, None if pairs is None else pairs.shape[0])
        if name == "reference":
            return self._reference(features, targets, pairs, n)
        dims = [channel_dim(m, f.shape) for m, f in zip(self._tap.modules, features, strict=True)]
        means = self.channel_means
        centred = self.centering == "channel"
        found = kernels.similarity_penalty(
            features,
            dims,
            [means.mean(i, f, d) for i, (f, d) in enumerate(zip(features, dims, strict=True))] if centred else [],
            self.layer_logits,
            targets,
            pairs,
            paired=paired,
            centering=self.centering,
            momentum=means.momentum,
            convention=self.convention,
            transform=self.transform,
            target_clamp=self.target_clamp,
            eps=_NORM_FLOOR,
            backend=name,
        )
        for index, mean in enumerate(found.means):
            means.store(index, mean)
        return found

    def _compared_in_passing(
        self,
        features: Mapping[str, Tensor],
        handed: Mapping[str, tuple[Tensor, Tensor]],
        targets: Tensor,
        pairs: Tensor | None,
        n: int,
    ) -> kernels.Penalty:
        """As `_compared`, of the products that `_attached` took."""
        if self.pairing == "pairs" and pairs is not None:
            raise ValueError(
                'pairs: attach=True compares the pairs of pairing="pairs" during the pass, so it takes neither pairs= '
                'nor a target with select=; use pairing="all", or attach=False.'
            )
        if self.pairing == "all":
            pairs = self._pairs_of(n, pairs)
        products = torch.cat([handed[name][0] for name in features])
        dtype = next(iter(features.values())).dtype
        found = kernels.penalty_of_products(
            products,
            self.layer_logits,
            targets,
            pairs,
            dtype=dtype,
            convention=self.convention,
            transform=self.transform,
            target_clamp=self.target_clamp,
            eps=_NORM_FLOOR,
        )
        if self.centering == "channel":
            for index, name in enumerate(features):
                self.channel_means.store(index, handed[name][1])
        return found

    def _reference(self, features: Sequence[Tensor], targets: Tensor, pairs: Tensor | None, n: int) -> kernels.Penalty:
        """As `_compared`, by the functions of `simreg.functional`."""
        dense = pairs is None and self.pairing == "all"
        pairs = self._pairs_of(n, pairs)
        layers = []
        for index, feature in enumerate(features):
            rows = self._centred(index, feature)  # (N, D)
            if dense:
                matrix = F.pairwise_cosine(rows, centering="none", eps=_NORM_FLOOR, backend="reference")
                layers.append(matrix[pairs[:, 0], pairs[:, 1]])
            else:
                layers.append(F.paired_cosine(rows, pairs, centering="none", eps=_NORM_FLOOR, backend="reference"))
        similarities = torch.stack(layers)
        with torch.autocast(similarities.device.type, enabled=False):
            mixed = F.mix_similarities(similarities, self.layer_logits)
            loss = F.similarity_loss(
                mixed, targets, convention=self.convention, transform=self.transform, target_clamp=self.target_clamp
            )
        return kernels.Penalty(loss, mixed, similarities, [])

    def _watch(self, features: Mapping[str, Tensor], loss: Tensor) -> None:
        if self._calls <= _CHECKED_CALLS:
            self._gradients.look(features, loss)
        if self.layer_logits.requires_grad and len(self.layers) > 1:
            self._optimizers.start(self.layer_logits, self._tap.require_model())

    def _centred(self, index: int, features: Tensor) -> Tensor:
        if self.centering != "channel":
            return F.center_features(features, self.centering)
        dim = channel_dim(self._tap.modules[index], features.shape)
        rows: Tensor = self.channel_means(index, features, dim)
        return rows

    def _check_features(self, index: int, features: Tensor, n: int) -> None:
        name = self.layers[index]
        if features.ndim < 2 or features.shape[0] != n or not features.is_floating_point():
            raise ValueError(
                f"layer {name!r} gives {describe(features)} for {n} images: similarity needs one floating-point row "
                "for each image, (N, ...). Tap another layer, or reshape with select=."
            )
        if features.device != self.layer_logits.device:
            raise RuntimeError(
                f"features of layer {name!r} are on {features.device}, the regularizer on {self.layer_logits.device}: "
                f"call reg.to({str(features.device)!r}) before creating the optimizer."
            )
        if torch.is_grad_enabled() and not features.requires_grad:
            raise ValueError(
                f"layers: the features of {name!r} carry no gradient, so the penalty cannot change the model: the "
                "layers up to it are frozen, the model ran under no_grad, or re-entrant activation checkpointing hides "
                "the graph (use_reentrant=False mends that). Tap a layer after the frozen ones."
            )

    def _checked_targets(self, targets: Tensor, pairs: Tensor | None, n: int) -> Tensor:
        """Targets of the pairs, (P,), from such or from a matrix (N, N)."""
        targets = targets.to(self.layer_logits.device).detach()
        targets = targets if targets.is_floating_point() else targets.float()
        if targets.ndim == 2:
            if targets.shape != (n, n):
                raise ValueError(f"targets: a matrix must be ({n}, {n}) for {n} images, got {tuple(targets.shape)}.")
            i, j = self._pairs_of(n, pairs).unbind(1)
            targets = targets[i, j]
        wanted = pairs.shape[0] if pairs is not None else math.comb(n, 2) if self.pairing == "all" else n // 2
        if targets.shape != (wanted,):
            raise ValueError(f"targets must have shape ({wanted},), one for each pair, got {describe(targets)}.")
        if torch.compiler.is_compiling():
            return targets
        self._calls += 1
        early = self._calls <= _CHECKED_CALLS and not capturing(targets)
        if early or not targets.is_cuda:
            check_similarity_range("targets", targets)
        if early and self._steep:
            self._extreme_targets.look(targets)
        return targets


def _initial_logits(layer_weights: str | Sequence[float], layers: Sequence[str]) -> tuple[Tensor, bool]:
    """Layer logits, (L,), and whether they are learned."""
    if isinstance(layer_weights, str):
        check_choice("layer_weights", layer_weights, ("learned", "uniform"))
        return torch.zeros(len(layers)), layer_weights == "learned"
    weights = torch.as_tensor(layer_weights, dtype=torch.float32)
    if weights.shape != (len(layers),) or not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"layer_weights must be {len(layers)} non-negative numbers with a positive sum, one for each of "
            f"{list(layers)!r}, got {layer_weights!r}."
        )
    return (weights / weights.sum()).log(), False


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / norm if norm > 0 else float("nan")
