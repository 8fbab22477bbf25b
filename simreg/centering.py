"""Running channel means of the tapped layers, the authors' centring."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from simreg.kernels.reference import work_dtype


class ChannelMeans(nn.Module):
    r"""One running mean per channel and layer, updated by each regularization batch before it is subtracted.

    .. math::
        m_c \leftarrow 0.9\, m_c + 0.1 \operatorname{mean}_{i,\text{positions}} x_{ic}, \quad m_c = 0 \text{ at first}

    Buffers, sized by the first features; `simreg.functional.similarity` moves them. In evaluation mode they rest.
    """

    def __init__(self, num_layers: int, device: torch.device) -> None:
        super().__init__()
        for index in range(num_layers):
            self.register_buffer(f"layer_{index}", torch.zeros(0, device=device))

    @property
    def momentum(self) -> float:
        """Weight of a batch in the means: the authors' 0.1, 0 in evaluation mode."""
        return 0.1 if self.training else 0.0

    def of(self, index: int, features: Tensor, channel_dim: int) -> Tensor:
        """The mean (C,) of layer ``index``, for ``features`` (N, ...) with the channels in ``channel_dim``."""
        name, channels = f"layer_{index}", features.shape[channel_dim]
        mean: Tensor = getattr(self, name)
        if mean.shape != (channels,) and mean.numel():
            raise ValueError(
                f"layers: number {index} has {channels} channels, but its running mean {mean.shape[0]}: a "
                "regularizer serves one model at one input size."
            )
        found = (mean if mean.numel() else features.new_zeros(channels)).to(work_dtype(features))
        if not torch.compiler.is_compiling() and found.is_inference() and not torch.is_inference_mode_enabled():
            found = found.clone()  # made while measuring; training moves it
        if found is not mean and self.training:
            setattr(self, name, found)
        return found

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, mean in self.named_buffers():  # take the sizes that come
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor):
                setattr(self, name, torch.zeros_like(saved, device=mean.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
