"""Running channel means of the tapped layers, the authors' centring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from simreg import functional as F

_MOMENTUM = 0.1  # the authors' 0.9 old + 0.1 new


class ChannelMeans(nn.Module):
    r"""One running mean per channel and layer, updated by each regularization batch before it is subtracted.

    .. math::
        m_c \leftarrow 0.9\, m_c + 0.1 \operatorname{mean}_{i,\text{positions}} x_{ic}, \quad m_c = 0 \text{ at first}

    No gradient flows through the means. They are buffers, sized by the first features; in evaluation mode they rest.

    Args:
        num_layers: L.
        device: Where the buffers start out.

    Source: the authors' code.
    """

    def __init__(self, num_layers: int, device: torch.device) -> None:
        super().__init__()
        self.num_layers = num_layers
        for index in range(num_layers):
            self.register_buffer(f"layer_{index}", torch.zeros(0, device=device))

    @property
    def momentum(self) -> float:
        """Weight of a batch in the means: 0 in evaluation mode."""
        return _MOMENTUM if self.training else 0.0

    def mean(self, index: int, features: Tensor, channel_dim: int) -> Tensor:
        """Mean (C,) of layer ``index`` so far, for ``features`` (N, ...) with the channels in ``channel_dim``.

        Raises:
            ValueError: If the number of channels differs from that seen before.
        """
        mean: Tensor = getattr(self, f"layer_{index}")
        channels = features.shape[channel_dim]
        if mean.numel() == 0:
            dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
            return torch.zeros(channels, dtype=dtype, device=features.device)
        if mean.shape != (channels,):
            raise ValueError(
                f"layers: number {index} has {channels} channels, but its running mean {mean.shape[0]}: a "
                "regularizer serves one model at one input size."
            )
        return mean

    def store(self, index: int, mean: Tensor) -> None:
        """Make ``mean`` (C,) that of layer ``index``; in evaluation mode nothing changes."""
        if not self.training:
            return
        old: Tensor = getattr(self, f"layer_{index}")
        if old.shape == mean.shape and old.dtype == mean.dtype:
            old.copy_(mean.detach())  # in place, as replays of a CUDA graph need it
        else:
            setattr(self, f"layer_{index}", mean.detach().clone())

    def keep(self, kept: Sequence[int]) -> None:
        """Go on with the means of the layers of these indices."""
        means = [getattr(self, f"layer_{index}") for index in kept]
        for index in range(self.num_layers):
            delattr(self, f"layer_{index}")
        for index, mean in enumerate(means):
            self.register_buffer(f"layer_{index}", mean)
        self.num_layers = len(means)

    def forward(self, index: int, features: Tensor, channel_dim: int) -> Tensor:
        """Update the mean of layer ``index`` and subtract it: centred rows (N, D), as `center_features` gives.

        Raises:
            ValueError: As for `mean`.
        """
        new = F.channel_mean(features.detach(), channel_dim)
        old = self.mean(index, features, channel_dim).to(new)
        mean = (1.0 - self.momentum) * old + self.momentum * new
        self.store(index, mean)
        return F.center_features(features, "channel", mean=mean, channel_dim=channel_dim)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for index in range(self.num_layers):  # take the sizes that come
            name = f"layer_{index}"
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, torch.zeros_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
