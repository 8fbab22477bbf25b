"""What simreg is compared with, from the formulas alone: features and running means of all layers to (L, P)."""

import torch
from torch.nn import functional as F

LAYER_SETS = {  # outputs of a ResNet18
    "CIFAR": ((64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)),
    "ImageNet": ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)),
    "tiny": ((4, 8, 8), (8, 4, 4)),
}


def draw_features(layers, n, device="cpu", dtype=torch.float32):
    """Rectified Gaussian features that images share in part, so that similarities lie around 0.4; leaves."""
    generator, features = torch.Generator().manual_seed(0), []
    for shape in LAYER_SETS[layers]:
        values = torch.randn(n, *shape, generator=generator) + torch.randn(shape, generator=generator)
        features.append(values.relu_().to(device, dtype).requires_grad_())
    return features


def centre(x, centering, mean):
    """Rows (N, D) minus a mean, in float32 at least."""
    x = x if x.dtype == torch.float64 else x.float()
    if centering == "channel":
        return (x - mean.view(1, -1, 1, 1)).flatten(1)
    rows = x.flatten(1)
    if centering == "none":
        return rows
    return rows - rows.mean(dim=0 if centering == "batch" else 1, keepdim=True)


def move(mean, *parts):
    """Update a running channel mean."""
    mean.lerp_(sum(x.detach().mean(dim=(0, 2, 3), dtype=mean.dtype) for x in parts) / len(parts), 0.1)


def naive(features, means, centering, paired):
    """Centre, normalise, multiply."""
    layers = []
    for x, mean in zip(features, means, strict=True):
        if centering == "channel":
            move(mean, x)
        rows = centre(x, centering, mean)
        if paired:
            layers.append(F.cosine_similarity(*rows.chunk(2), dim=1))
        else:
            unit = F.normalize(rows, dim=1)
            layers.append(_upper(unit @ unit.T))
    return torch.stack(layers)


def paper(features, means):
    """Images of the pairs in tensors of their own: all layers of the first forward pass, then all of the second."""
    layers = []
    for a, b, mean in zip(features[: len(means)], features[len(means) :], means, strict=True):
        move(mean, a, b)
        layers.append(F.cosine_similarity(centre(a, "channel", mean), centre(b, "channel", mean), dim=1))
    return torch.stack(layers)


def corrcoef(features, means):
    """All pairs, centred by image."""
    return torch.stack([_upper(torch.corrcoef(x.flatten(1))) for x in features])


def penalty(similarities, logits, targets):
    """L_sim: mean squared difference of twice arctanh, of the layers' weighted mean and of the targets."""
    mixed = torch.softmax(logits, dim=0) @ similarities
    z = [torch.log(1 + s + 1e-5) - torch.log(1 - s + 1e-5) for s in (mixed, targets)]
    return (z[0] - z[1]).square().mean()


def _upper(matrix):
    i, j = torch.triu_indices(*matrix.shape, offset=1, device=matrix.device)
    return matrix[i, j]
