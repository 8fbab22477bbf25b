"""The regularised incomplete beta function, in pure Python: what Student's t distribution is made of."""

from __future__ import annotations

import math


def incomplete_beta(x: float, complement: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction, summed forwards (modified Lentz); ``complement`` is 1 - x without rounding.

    Source: DLMF 8.17.22 (https://dlmf.nist.gov/8.17).
    """
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side only
        return 1 - incomplete_beta(complement, x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(complement)
    tiny, c, d, value = 1e-300, 1.0, 0.0, 1.0
    for i in range(1000):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        value *= c * d
        if i and abs(c * d - 1) < 1e-15:
            break
    return math.exp(logarithm) / a * (value - 1)
