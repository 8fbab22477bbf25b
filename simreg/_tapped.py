"""The layers that a regularizer taps, and what it owns for each: a logit and a running mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from simreg._checks import check_images
from simreg._inputs import device_of, to_model
from simreg._passes import exits_early
from simreg._pruning import check_optimizer, layers_to_keep, shrink, shrink_state
from simreg._state import initial_logits, layers_to_load, note_layers
from simreg._watch import OptimizerWatch
from simreg.centering import ChannelMeans
from simreg.cost import CostEstimate, Mode, estimate
from simreg.features import FeatureTap
from simreg.pool import Pairing


class TappedLayers(nn.Module):
    """What `SimilarityRegularizer` is apart from its penalty: layers with weights, their state, pruning and cost."""

    layer_logits: nn.Parameter
    channel_means: ChannelMeans
    pairing: Pairing
    early_exit: bool | Literal["auto"]
    attach: bool
    _tap: FeatureTap
    _optimizers: OptimizerWatch

    def _own(self, model: nn.Module, layer_weights: str | Sequence[float]) -> None:
        """Start with logits of ``layer_weights`` and empty means, on the device of ``model``."""
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        logits, learned = initial_logits(layer_weights, self.layers)
        self.layer_logits = nn.Parameter(logits.to(device), requires_grad=learned)
        self.channel_means = ChannelMeans(len(self.layers), device)

    @property
    def layers(self) -> list[str]:
        """Resolved names of the tapped layers."""
        return self._tap.layers

    @property
    def layer_weights(self) -> dict[str, float]:
        """Softmax weights of the layers by name."""
        weights = torch.softmax(self.layer_logits.detach().float(), dim=0)
        return dict(zip(self.layers, weights.tolist(), strict=True))

    def parameter_group(self) -> dict[str, Any]:
        """The layer logits as an optimizer group without weight decay."""
        return {"params": [self.layer_logits], "weight_decay": 0.0}

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
            >>> from simreg import SimilarityRegularizer
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
            >>> from simreg import SimilarityRegularizer
            >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten())
            >>> reg = SimilarityRegularizer(model, layers=["1"])
            >>> print(reg.cost(64, 16, example=torch.zeros(1, 1, 32, 32)))
            separate: 64 images and 16 pairs a step, 32 more images up to the last tapped layer
            FLOP a step: plain 99.1 M, regularized 106 M (similarity 1.04 M): 1.07 times the plain step
            memory: 1.05 MB more; the similarity reads and writes 1.38 MB
            features of an image: 1 4x30x30 (14.4 kB)
        """
        model = self._tap.require_model()
        device = device_of(model, self.layer_logits)
        images = to_model(check_images("example", example).to(device), model)
        return estimate(
            self._tap,
            images,
            batch_size,
            pairs,
            mode=mode,
            pairing=self.pairing,
            early_exit=exits_early(model, self.early_exit),
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

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        note_layers(destination, prefix, self.layers)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *args: Any
    ) -> None:
        saved = state_dict.get(prefix + "layer_logits")
        if isinstance(saved, Tensor):
            layers = layers_to_load(saved, local_metadata, self.layers)
            if layers != self.layers:
                self._keep(layers)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def close(self) -> None:
        """Remove all hooks and let go of the model; closing twice is fine."""
        self._tap.close()
        self._optimizers.stop()
