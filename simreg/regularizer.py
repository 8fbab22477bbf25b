"""`SimilarityRegularizer`: from the features of a model to one term of its loss."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from simreg import functional as F
from simreg import passes
from simreg._checks import check_choice, check_images, check_positive, check_tensor, describe
from simreg.batch import PairBatch, Pairing, complete_batch
from simreg.centering import ChannelMeans
from simreg.cost import CostEstimate, Mode, estimate
from simreg.features import FeatureTap, Selects, check_features
from simreg.functional import CENTERINGS, CONVENTIONS, TRANSFORMS, Centering, Convention, Transform, check_clamp
from simreg.kernels import BACKENDS, Backend
from simreg.kernels.reference import work_dtype
from simreg.layers import WRAPPER_SEGMENTS, channel_dim
from simreg.targets import Target
from simreg.watch import Watch


class SimilarityRegularizer(nn.Module):
    r"""Penalty that makes a model's feature similarities follow target similarities.

    .. math::
        \alpha L_\text{sim}, \qquad L_\text{sim} = \frac{1}{P} \sum_p
        \big(2\,\mathrm{arctanh}\,S_p - 2\,\mathrm{arctanh}\,T_p\big)^2, \qquad
        S_p = \sum_l \gamma_l \cos\big(x^{(l)}_i - m^{(l)},\, x^{(l)}_j - m^{(l)}\big), \quad (i, j) = \text{pair } p

    (convention ``"official"``; γ is the softmax of the layer logits, m the running channel means.) Three ways of use:
    ``reg(batch)`` with batches of a `RegularizationPool`; ``with reg.observe(): logits = model(x)``, then
    ``reg.penalty(x)``, on the task batch without an extra forward pass; ``logits, penalty = reg.joint(x, batch)``, one
    forward pass for both, the mode for DDP and FSDP.

    It owns its layer logits and running means only: the model is neither in its ``parameters()`` nor in its
    ``state_dict()``. Give ``reg.parameter_group()`` to the optimizer.

    Args:
        model: The model that is trained, as it is called in training: wrapped if it is wrapped.
        layers: Names, globs, ``"auto"`` (five equally spaced blocks, as in the paper) or ``"early"`` (stem and first
            stage, where the learned weights end up); see `FeatureTap`.
        target: Of images that come without target similarities: ``reg(images)`` and ``reg.penalty(images)``.
        alpha: Strength, at least 0; may be changed at any time. 0 trains bit-identically to no regularizer.
        convention: Units of ``alpha``, see `similarity_loss` and `convert_alpha`.
        pairing: ``"pairs"`` compares row i with row k + i of 2k images, ``"all"`` every pair i < j of a batch.
        centering: ``"channel"`` (running per-channel mean, the authors' code), ``"batch"``, ``"image"`` or ``"none"``.
        transform: ``"arctanh"``, or ``"none"`` for plain squared differences.
        target_clamp: Bound on target similarities in (0, 1], such as 0.95: ±1 targets that are not rare make training
            collapse under arctanh.
        layer_weights: ``"learned"``, ``"uniform"``, or fixed non-negative weights in the order of `layers`.
        batch_norm: What the regularization pass does to batch norm: ``"update"`` (as any training pass), ``"freeze"``
            (batch statistics, buffers untouched), ``"eval"`` (running statistics), ``"separate"`` (running statistics
            of its own, for evaluation passes and checkpoints of the regularizer), ``"official"`` (the authors' two
            passes, rows and columns of the pairs apart). `observe` has no such pass; `joint` allows ``"update"`` only.
        early_exit: Stop the regularization pass after the last tapped layer; ``"auto"`` does unless the model is
            compiled or distributed.
        backend: Of the similarity, see `simreg.kernels.products`.
        select: For layers whose output is not a tensor, see `FeatureTap`.

    Raises:
        ValueError: If a choice or a layer is unknown (near matches are listed), or a number is out of range.

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
        batch_norm: passes.BatchNormPolicy = "update",
        early_exit: bool | Literal["auto"] = "auto",
        backend: Backend = "auto",
        select: Selects = None,
    ) -> None:
        super().__init__()
        check_choice("convention", convention, CONVENTIONS)
        check_choice("pairing", pairing, ("pairs", "all"))
        check_choice("centering", centering, CENTERINGS)
        check_choice("transform", transform, TRANSFORMS)
        check_choice("batch_norm", batch_norm, passes.BATCH_NORM_POLICIES)
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
        self._tap = FeatureTap(model, layers, select=select)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        logits = _initial_logits(layer_weights, self.layers).to(device)
        self.layer_logits = nn.Parameter(logits, requires_grad=layer_weights == "learned")
        self.channel_means = ChannelMeans(len(self.layers), device)
        self._auxiliary = passes.AuxiliaryStatistics(model) if batch_norm == "separate" else None
        self._watch = Watch()
        self._observed: dict[str, Tensor] | None = None
        self._last: dict[str, Tensor] = {}

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
        """Diagnostics of the last penalty, empty before the first; reading them synchronises.

        ``loss`` (L_sim), ``penalty`` (alpha times it), ``correlation`` of similarities and targets over pairs (NaN if
        either is constant), ``target_share`` (of ±1, before any clamp), ``similarity_spread`` (standard deviation over
        pairs, by layer) and ``layer_weights``.
        """
        if not self._last:
            return {}
        mixed, targets, layers = (self._last[key].double() for key in ("mixed", "targets", "similarities"))
        x, y = mixed - mixed.mean(), targets - targets.mean()
        norm = float((x.square().sum() * y.square().sum()).sqrt())
        spread = layers.std(dim=1, correction=0).tolist()
        return {
            "loss": float(self._last["loss"]),
            "penalty": self.alpha * float(self._last["loss"]),
            "correlation": float((x * y).sum()) / norm if norm > 0 else float("nan"),
            "target_share": float((targets.abs() >= 0.999).double().mean()),
            "similarity_spread": dict(zip(self.layers, spread, strict=True)),
            "layer_weights": self.layer_weights,
        }

    def parameter_group(self) -> dict[str, Any]:
        """The layer logits as an optimizer group without weight decay."""
        return {"params": [self.layer_logits], "weight_decay": 0.0}

    def forward(
        self, batch: PairBatch | Tensor, *, targets: Tensor | None = None, pairs: Tensor | None = None
    ) -> Tensor:
        """Run the model on regularization images and return ``alpha * L_sim``, a scalar ready to add to the loss.

        Args:
            batch: A `PairBatch`, or images (N, C, H, W) as the model takes them. Images come with ``targets``, or the
                regularizer has a ``target``, which then is computed from these very images, in [0, 1].
            targets: Target similarities in [-1, 1]: (P,), or a matrix (N, N).
            pairs: Shape (P, 2), int64: rows of the images. By default as ``pairing`` says.

        Raises:
            ValueError: If shapes or values do not fit, a tapped layer did not run, or its features carry no gradient.
        """
        self._observed = None
        if self.alpha == 0:
            return self._nothing()
        given = batch.pairs if isinstance(batch, PairBatch) else pairs
        if given is not None and self.batch_norm == "official":
            raise ValueError('batch_norm="official" passes rows i and k + i apart: it takes no other pairs.')
        batch = self._batch(batch, targets, pairs)
        exits = passes.exits_early(self._tap.require_model(), self.early_exit)
        features = passes.separate_features(self._tap, batch.images, exits, self.batch_norm, self._auxiliary)
        return self._penalty(features, batch)

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Record the features of the one forward pass inside the block, for `penalty`.

        Raises ValueError if a tapped layer did not run, RuntimeError if the model runs twice inside the block.
        """
        self._observed = None
        if self.alpha == 0:
            yield
            return
        with self._tap.record():
            yield
        self._observed = self._tap.take()

    def penalty(self, images_or_targets: Tensor, pairs: Tensor | None = None) -> Tensor:
        """``alpha * L_sim`` of the pass recorded by `observe`, whose features are let go; errors as of `forward`.

        The first 20 penalties look at the values of targets and images, which on a GPU synchronises.

        Args:
            images_or_targets: The images of that pass, (N, C, H, W), uint8 or in [0, 1], for the regularizer's
                ``target``; or target similarities, a matrix (N, N) or (P,).
            pairs: Shape (P, 2), int64: rows of the batch. By default as ``pairing`` says.
        """
        if self.alpha == 0:
            return self._nothing()
        self._tap.require_model()
        if self._observed is None:
            raise RuntimeError("no forward pass to penalise: run the model inside `with reg.observe():` first, once.")
        features = self._observed
        rows = next(iter(features.values())).shape[0]
        if check_tensor("images_or_targets", images_or_targets).ndim > 2:
            if images_or_targets.shape[0] != rows:
                raise ValueError(f"images: the observed pass had {rows} rows, got {images_or_targets.shape[0]} images.")
            batch = self._batch(images_or_targets, None, pairs)
        else:  # what the model saw is not needed again
            batch = self._batch(torch.empty(rows, 0, 0, 0), images_or_targets, pairs)
        self._observed = None
        return self._penalty(check_features(features, batch.images), batch)

    def joint(self, x: Tensor, batch: PairBatch | Tensor) -> tuple[Any, Tensor]:
        """One forward pass for task and regularization images: the model's output for ``x`` alone, ``alpha * L_sim``.

        Args:
            x: Task images as the model takes them, (B, C, H, W).
            batch: As for `forward`; images of the same shape, which batch norm sees together with ``x``.
        """
        if self.batch_norm != "update":
            raise ValueError(
                f"batch_norm={self.batch_norm!r}: a joint pass normalises task and regularization images together; "
                'use batch_norm="update", or call reg(batch) for a pass of its own.'
            )
        self._observed = None
        if self.alpha == 0:
            return self._tap.require_model()(x), self._nothing()
        batch = self._batch(batch, None, None)
        output, features = passes.joint_features(self._tap, x, batch.images)
        return output, self._penalty(features, batch)

    def cost(
        self, batch_size: int, pairs: int | None = None, *, example: Tensor, mode: Mode = "separate"
    ) -> CostEstimate:
        """FLOPs of a regularized step over those of a plain one, by passes of two images that leave no trace.

        Args:
            batch_size: B, task images of a step.
            pairs: k, pairs of a step. With pairing ``"pairs"`` that is 2k images, with ``"all"`` the fewest n with
                n (n - 1) / 2 >= k. With ``"observe"`` by default those that ``pairing`` makes of the batch.
            example: Images as the model takes them, (N, C, H, W), N >= 1, of the size of all images.
            mode: ``"separate"`` for ``reg(batch)``, ``"observe"`` for the task batch itself, ``"joint"``.

        Example:
            >>> from simreg import SimilarityRegularizer
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten())
            >>> print(SimilarityRegularizer(model, layers=["1"]).cost(64, 16, example=torch.zeros(1, 1, 32, 32)))
            separate: 64 images and 16 pairs a step, 32 more images up to the last tapped layer
            MFLOP a step: plain 99.1, regularized 106.4 (similarity 1.0): 1.07 times the plain step
        """
        model = self._tap.require_model()
        images = passes.as_input(check_images("example", example).to(self._device()), model)
        exits = passes.exits_early(model, self.early_exit)
        return estimate(self._tap, images, batch_size, pairs, mode=mode, pairing=self.pairing, early_exit=exits)

    def close(self) -> None:
        """Remove all hooks and let go of the model; closing twice is fine."""
        self._tap.close()
        self._observed = None

    def __getstate__(self) -> dict[str, Any]:
        # Features and diagnostics of a pass hang on its graph and do not travel with copies.
        return {**self.__dict__, "_observed": None, "_last": {}, "_watch": Watch()}

    def __enter__(self) -> "SimilarityRegularizer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def extra_repr(self) -> str:  # noqa: D102
        return f"layers={self.layers}, alpha={self.alpha}, convention={self.convention!r}, pairing={self.pairing!r}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {})  # a plain dict has none
        if prefix[:-1] in metadata:
            metadata[prefix[:-1]]["layers"] = list(self.layers)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any) -> None:
        saved = local_metadata.get("layers", self.layers)
        if [_bare(name) for name in saved] != [_bare(name) for name in self.layers]:
            raise ValueError(
                f"layers: the state is of the layers {list(saved)!r}, this regularizer taps {self.layers!r}. Create it "
                "with those, or if they are its own under other names, load dict(state), which has none."
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _nothing(self) -> Tensor:
        return torch.zeros((), device=self.layer_logits.device)

    def _device(self) -> torch.device:
        """Device of the layer logits, which must be that of the model."""
        device, parameter = self.layer_logits.device, next(self._tap.require_model().parameters(), None)
        if parameter is not None and parameter.device != device:
            raise RuntimeError(
                f"the model is on {parameter.device}, the regularizer on {device}: call "
                f"reg.to({str(parameter.device)!r}) before creating the optimizer."
            )
        return device

    def _batch(self, batch: PairBatch | Tensor, targets: Tensor | None, pairs: Tensor | None) -> PairBatch:
        device = self._device()
        look = self._watch.looks(device)
        return complete_batch(batch, targets, pairs, target=self.target, pairing=self.pairing, device=device, look=look)

    def _penalty(self, features: Mapping[str, Tensor], batch: PairBatch) -> Tensor:
        """The one flow from features to the penalty."""
        if len(batch) == 0:  # the target selects no pair of this batch
            self._last, self._watch.calls = {}, self._watch.calls + 1
            return self._nothing()
        layers = []
        how: dict[str, Any] = {"centering": self.centering, "backend": self.backend}
        for index, x in enumerate(features.values()):
            dim = channel_dim(self._tap.modules[index], x.shape)
            if self.centering == "channel":
                mean = self.channel_means.of(index, x, dim)
                how.update(running_mean=mean, momentum=self.channel_means.momentum, channel_dim=dim)
            layers.append(F.similarity(x, batch.pairs, **how))
        similarities = torch.stack(layers)  # (L, P)
        mixed = F.mix_similarities(similarities, self.layer_logits)
        loss = F.similarity_loss(
            mixed, batch.targets, convention=self.convention, transform=self.transform, target_clamp=self.target_clamp
        ).to(work_dtype(x))
        last = {"loss": loss, "mixed": mixed, "similarities": similarities, "targets": batch.targets}
        self._last = {key: value.detach() for key, value in last.items()}
        if self._watch.looks(loss.device):
            unclamped = self.target_clamp is None or self.target_clamp >= 0.999
            steep = batch.targets if self.transform == "arctanh" and unclamped else None
            self._watch.look(features, loss, steep)
            self._watch.optimizer(self.layer_logits, self._tap.require_model())
        return self.alpha * loss


def _initial_logits(layer_weights: str | Sequence[float], layers: Sequence[str]) -> Tensor:
    """Layer logits, (L,), whose softmax is ``layer_weights``."""
    if isinstance(layer_weights, str):
        check_choice("layer_weights", layer_weights, ("learned", "uniform"))
        return torch.zeros(len(layers))
    weights = torch.as_tensor(layer_weights, dtype=torch.float32)
    if weights.shape != (len(layers),) or not bool((weights >= 0).all()) or not bool(weights.sum() > 0):
        raise ValueError(
            f"layer_weights must be {len(layers)} non-negative numbers with a positive sum, one for each of "
            f"{list(layers)!r}, got {layer_weights!r}."
        )
    return (weights / weights.sum()).log()


def _bare(name: str) -> str:
    return ".".join(segment for segment in name.split(".") if segment not in WRAPPER_SEGMENTS)
