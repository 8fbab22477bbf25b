"""Spatial frequencies: Fourier power of perturbations, its profile over rings, its mean frequency."""

from __future__ import annotations

import torch
from torch import Tensor

from simreg._checks import check_tensor


def power_spectrum(perturbations: Tensor) -> Tensor:
    r"""Fourier power of each perturbation, mean over channels, zero frequency in the centre.

    .. math:: P_{kl} = \frac{1}{C} \sum_c \left|
        \frac{1}{H W} \sum_{yx} \delta_{cyx} e^{-2 \pi i (k y / H + l x / W)} \right|^2

    Its sum over all frequencies is the mean squared perturbation per value (Parseval), the unit of the Boundary
    Attack's distances.

    Args:
        perturbations: Shape (N, C, H, W), floating point, in units of [0, 1] images.

    Returns:
        Shape (N, H, W), float64 on the CPU; row H // 2 and column W // 2 hold the zero frequency.

    Raises:
        TypeError: If ``perturbations`` is no floating-point tensor.
        ValueError: If its shape is not (N, C, H, W).

    Example:
        >>> wave = torch.cos(torch.arange(8) * torch.pi / 2).expand(1, 1, 8, 8)  # 2 cycles from left to right
        >>> power = power_spectrum(wave)[0]
        >>> [tuple(row) for row in (power > 0.01).nonzero().tolist()], round(power.sum().item(), 4)
        ([(4, 2), (4, 6)], 0.5)
    """
    values = check_perturbations("perturbations", perturbations).detach().to("cpu", torch.float64)
    spectrum = torch.fft.fft2(values, norm="forward")
    power: Tensor = torch.fft.fftshift(spectrum.abs().square().mean(dim=1), dim=(-2, -1))
    return power


def radial_frequency(height: int, width: int) -> Tensor:
    """Distance of each entry of a centred spectrum from the zero frequency, in cycles per image, (H, W) float64."""
    rows = torch.arange(height, dtype=torch.float64) - height // 2
    columns = torch.arange(width, dtype=torch.float64) - width // 2
    return torch.hypot(rows.view(-1, 1), columns.view(1, -1))


def radial_profile(power: Tensor) -> Tensor:
    """Mean of a centred spectrum (H, W) over rings: entry r has the frequencies from r - 0.5 up to r + 0.5.

    Rings beyond half the image side reach into the corners alone.

    Returns:
        Shape (R,), float64; R - 1 is the largest radial frequency, rounded.

    Example:
        >>> radial_profile(torch.ones(4, 4)).tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    ring = (radial_frequency(*power.shape) + 0.5).floor().long().flatten()
    values = power.detach().to("cpu", torch.float64).flatten()
    return torch.bincount(ring, weights=values) / torch.bincount(ring)


def mean_frequency(perturbations: Tensor) -> float:
    r"""Mean radial frequency of perturbations, weighted by their power, in cycles per image.

    .. math:: \bar f = \frac{\sum_{kl} \sqrt{k^2 + l^2} \, \bar P_{kl}}{\sum_{kl} \bar P_{kl}}

    with the mean power over images and channels. White noise on 32 x 32 images has 12.24, a shift of all values 0.

    Args:
        perturbations: Changed minus original images, (N, C, H, W), floating point.

    Returns:
        Cycles per image; NaN if nothing changed.

    Raises:
        TypeError: If ``perturbations`` is no floating-point tensor.
        ValueError: If its shape is not (N, C, H, W), or it holds NaN.

    Example:
        >>> wave = torch.cos(torch.arange(8) * torch.pi / 2).expand(1, 1, 8, 8)
        >>> round(mean_frequency(wave), 4)
        2.0
    """
    power = power_spectrum(perturbations).mean(dim=0)
    if bool(power.isnan().any()):
        raise ValueError("perturbations hold NaN: leave out the images without an adversarial one.")
    return mean_radial_frequency(power)


def mean_radial_frequency(power: Tensor) -> float:
    """Mean radial frequency of a centred spectrum (H, W), weighted by power, in cycles per image; NaN without power."""
    return float((radial_frequency(*power.shape) * power).sum() / power.sum())


def check_perturbations(name: str, value: object) -> Tensor:
    """Raise unless ``value`` is a floating-point tensor (N, C, H, W), N >= 1; returns it."""
    tensor = check_tensor(name, value, wanted="a floating-point tensor (N, C, H, W)")
    if not tensor.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {tensor.dtype}.")
    if tensor.ndim != 4 or tensor.numel() == 0:
        raise ValueError(f"{name} must have shape (N, C, H, W) with at least one image, got {tuple(tensor.shape)}.")
    return tensor
