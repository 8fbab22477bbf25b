"""`SimilarityRegularizer`: from the features of a model to one term of its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from simreg import _stats
from simreg._checks import capturing, check_choice, check_images, check_positive, check_tensor, describe, readable
from simreg._comparison import Comparison, attach, compare, compare_attached
from simreg._inputs import (
    batch_on,
    check_features,
    computed_targets,
    device_of,
    given_pairs,
    targets_of_pairs,
    to_model,
)
from simreg._passes import exits_early, joint_features, separate_features
from simreg._tapped import TappedLayers
from simreg._watch import ExtremeTargetWatch, OptimizerWatch, ZeroGradientWatch
from simreg.batch import PairBatch
from simreg.batchnorm import BATCH_NORM_POLICIES, AuxiliaryStatistics, BatchNormPolicy, RecomputeGuard
from simreg.features import FeatureTap, Select, is_compiled
from simreg.functional import CENTERINGS, CONVENTIONS, TRANSFORMS, Centering, Convention, Transform, check_clamp
from simreg.kernels import BACKENDS, Backend
from simreg.pool import Pairing
from simreg.targets import Target, check_similarity_range, unit_float

_CHECKED_CALLS = 20  # calls whose target values are looked at, which on a GPU synchronises


class SimilarityRegularizer(TappedLayers):
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
        self._own(model, layer_weights)
        self._auxiliary = AuxiliaryStatistics(model) if batch_norm == "separate" else None
        self._observed: dict[str, Tensor] | None = None
        self._handed_on: dict[str, tuple[Tensor, Tensor]] = {}  # products and center of the layers
        self._last: dict[str, Tensor] | None = None
        self._calls = 0
        self._extreme_targets = ExtremeTargetWatch()
        self._gradients = ZeroGradientWatch()
        self._optimizers = OptimizerWatch()
        self._guard = RecomputeGuard(batch_norm)

    @property
    def alpha(self) -> float:
        """Strength of the penalty, at least 0; may be set at any time."""
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        check_positive("alpha", alpha, zero=True)
        self._alpha = alpha

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
        return {**_stats.described(self._last, self.alpha, self.layers), "layer_weights": self.layer_weights}

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
        check_features(self.layers[index], features, n, self.layer_logits.device)
        handed, products, center = attach(
            self._how, index, features, self._tap.modules[index], self.channel_means, copy=copied
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
        pairs = given_pairs(pairs, n, self.pairing, self.layer_logits.device)
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
        output, features = joint_features(self._tap, x, images)
        return output, self._penalty(features, targets, pairs, images.shape[0])

    def close(self) -> None:
        """Remove all hooks and let go of the model; closing twice is fine."""
        super().close()
        self._guard.close()
        self._observed = None
        self._handed_on = {}

    def _keep(self, layers: list[str], optimizer: torch.optim.Optimizer | None = None) -> None:
        kept = [self.layers.index(name) for name in layers]
        super()._keep(layers, optimizer)
        if self._observed is not None:
            self._observed = {name: self._observed[name] for name in layers}
        self._handed_on = {name: found for name, found in self._handed_on.items() if name in layers}
        if self._last is not None:
            self._last["layers"] = self._last["layers"][kept]

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
        model = self._tap.require_model()
        device = device_of(model, self.layer_logits)
        if isinstance(batch, PairBatch):
            if targets is not None or pairs is not None:
                raise ValueError("targets and pairs belong to images; a PairBatch has its own.")
            batch = batch_on(device, batch, self.pairing)
            return to_model(batch.images, model), batch.targets, batch.pairs
        images = unit_float(check_images("images", batch)).to(device)
        pairs = given_pairs(pairs, images.shape[0], self.pairing, device)
        if targets is None:
            targets, pairs = self._computed(images, pairs)
        return to_model(images, model), targets, pairs

    def _computed(self, images: Tensor, pairs: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Targets of these images and the pairs they belong to."""
        early = self._calls < _CHECKED_CALLS and not torch.compiler.is_compiling() and not capturing(images)
        look = readable(images) or early
        return computed_targets(self.target, images, pairs, self.pairing, self.layer_logits.device, look=look)

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        return separate_features(
            self._tap,
            images,
            early_exit=exits_early(self._tap.require_model(), self.early_exit),
            policy=self.batch_norm,
            auxiliary=self._auxiliary,
            guard=self._guard,
        )

    def _penalty(
        self,
        features: Mapping[str, Tensor],
        targets: Tensor,
        pairs: Tensor | None,
        n: int,
        handed: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        device = self.layer_logits.device
        targets = targets_of_pairs(targets, pairs, n, self.pairing, device)
        self._look_at(targets)
        if targets.numel() == 0:  # the target selects no pair of this batch
            return self._nothing()
        for name, feature in features.items():
            check_features(name, feature, n, device)
        rest = self.channel_means, self.layer_logits, targets, pairs
        if handed:
            watched: Mapping[str, Tensor] = {name: products for name, (products, _) in handed.items()}
            attached = [handed[name] for name in features]
            found = compare_attached(self._how, attached, next(iter(features.values())), *rest)
        else:
            watched = features
            found = compare(self._how, list(features.values()), self._tap.modules, *rest)
        self._last = _stats.kept(found, targets)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and not capturing(found.loss):
            self._watch(watched, found.loss)
        return self.alpha * found.loss

    def _watch(self, features: Mapping[str, Tensor], loss: Tensor) -> None:
        if self._calls <= _CHECKED_CALLS:
            self._gradients.look(features, loss)
        if self.layer_logits.requires_grad and len(self.layers) > 1:
            self._optimizers.start(self.layer_logits, self._tap.require_model())

    @property
    def _how(self) -> Comparison:
        return Comparison(
            self.pairing, self.centering, self.convention, self.transform, self.target_clamp, self.backend
        )

    def _look_at(self, targets: Tensor) -> None:
        """Check the values of targets where that is free, and in the first calls."""
        if torch.compiler.is_compiling():
            return
        self._calls += 1
        early = self._calls <= _CHECKED_CALLS and not capturing(targets)
        if early or not targets.is_cuda:
            check_similarity_range("targets", targets)
        steep = self.transform == "arctanh" and (self.target_clamp is None or self.target_clamp >= 0.999)
        if early and steep:  # ±1 meets the poles of arctanh
            self._extreme_targets.look(targets)
