"""Independent rendering of the method: float64 NumPy, one pair and one unit at a time."""

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    dot = na = nb = 0.0
    for x, y in zip(a.ravel(), b.ravel(), strict=True):
        dot, na, nb = dot + x * y, na + x * x, nb + y * y
    return dot / math.sqrt(na) / math.sqrt(nb)


def official_z(s: float) -> float:
    return math.log(1 + s + 1e-5) - math.log(1 - s + 1e-5)


def softmax(logits) -> list[float]:
    e = [math.exp(v) for v in logits]
    return [v / sum(e) for v in e]


class OfficialLoss:
    """Mean over pairs of squared official z differences, with running channel means updated before use."""

    def __init__(self, channels: list[int]) -> None:
        self.means = [np.zeros(c) for c in channels]

    def update(self, features: list[np.ndarray]) -> None:
        for layer, f in enumerate(features):  # (2k, C, H, W)
            self.means[layer] = 0.9 * self.means[layer] + 0.1 * f.mean(axis=(0, 2, 3))

    def similarities(self, features: list[np.ndarray]) -> np.ndarray:
        k = features[0].shape[0] // 2
        centred = [f - m[None, :, None, None] for f, m in zip(features, self.means, strict=True)]
        return np.array([[cosine(f[i], f[k + i]) for i in range(k)] for f in centred])  # (L, k)

    def loss(self, features: list[np.ndarray], targets, logits) -> float:
        weights = softmax(logits)
        s = self.similarities(features)
        mixed = [sum(w * s[layer, p] for layer, w in enumerate(weights)) for p in range(s.shape[1])]
        return float(np.mean([(official_z(m) - official_z(t)) ** 2 for m, t in zip(mixed, targets, strict=True)]))
