"""Running channel means of the tapped layers, the authors' centring."""

from __future__ import annotations

from collections.abc import Mapping
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

    def forward(self, index: int, features: Tensor, channel_dim: int) -> Tensor:
        """Centred rows (N, D) of the features of layer ``index``, shape (N, ...) with the channels in ``channel_dim``.

        Raises:
            ValueError: If the number of channels differs from that seen before.
        """
        new = F.channel_mean(features.detach(), channel_dim)
        mean: Tensor = getattr(self, f"layer_{index}")
        if mean.numel() == 0:
            mean = torch.zeros_like(new)
        if mean.shape != new.shape:
            raise ValueError(
                f"layers: number {index} has {new.shape[0]} channels, but its running mean {mean.shape[0]}: a "
                "regularizer serves one model at one input size."
            )
        if self.training:
            mean = (1.0 - _MOMENTUM) * mean.to(new) + _MOMENTUM * new
            setattr(self, f"layer_{index}", mean)
        return F.center_features(features, "channel", mean=mean, channel_dim=channel_dim)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for index in range(self.num_layers):  # take the sizes that come
            name = f"layer_{index}"
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, torch.zeros_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
