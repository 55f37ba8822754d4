"""How far apart colours look, to those who see all of them and to those who do not.

Machado, Oliveira, Fernandes: A physiologically-based model for simulation of color vision deficiency, IEEE TVCG 15 (6),
2009; the matrices of severity 1.0, which apply to linear RGB. Sharma, Wu, Dalal: The CIEDE2000 color-difference
formula, Color Research & Application 30 (1), 2005. Contrast: WCAG 2.2.
"""

import re
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

VISIONS: dict[str, Floats] = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""Linear RGB as it is -> linear RGB as it is seen."""
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(1)  # D65


def linear(color: str) -> Floats:
    """`#rrggbb` or `rgb(r, g, b)` as linear RGB (3,), each 0 to 1."""
    digits = re.fullmatch("#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})", color)
    parts = [int(part, 16) for part in digits.groups()] if digits else [int(part) for part in re.findall(r"\d+", color)]
    assert len(parts) == 3, color
    values = np.array(parts) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(seen: Floats) -> Floats:
    """CIELAB (..., 3) of linear RGB (..., 3)."""
    ratios = np.clip(seen, 0, 1) @ _TO_XYZ.T / _WHITE
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def ciede2000(one: Floats, other: Floats) -> Floats:
    """Distances (...,) of CIELAB colours (..., 3); about 2 can just be told apart side by side."""
    chroma = (np.hypot(one[..., 1], one[..., 2]) + np.hypot(other[..., 1], other[..., 2])) / 2
    stretch = 1.5 - 0.5 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7))
    (l1, c1, h1), (l2, c2, h2) = (
        (of[..., 0], np.hypot(a := of[..., 1] * stretch, of[..., 2]), np.degrees(np.arctan2(of[..., 2], a)) % 360)
        for of in (one, other)
    )
    both = c1 * c2 > 0
    turn = np.where(both, (h2 - h1 + 180) % 360 - 180, 0.0)
    hue = np.where(both, np.where(abs(h1 - h2) <= 180, (h1 + h2) / 2, (h1 + h2 + 360) / 2 % 360), h1 + h2)
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 - 0.17 * _cos(hue - 30) + 0.24 * _cos(2 * hue) + 0.32 * _cos(3 * hue + 6) - 0.20 * _cos(4 * hue - 63)
    lightness = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    saturation = (c2 - c1) / (1 + 0.045 * c)
    shade = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c * t)
    rotation = -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((hue - 275) / 25) ** 2))))
    return np.sqrt(lightness**2 + saturation**2 + shade**2 + rotation * saturation * shade)


def distance(one: str, other: str, vision: str) -> float:
    """CIEDE2000 of two colours as that vision sees them."""
    seen = VISIONS[vision].T
    return float(ciede2000(lab(linear(one) @ seen), lab(linear(other) @ seen)))


def nearest(colors: list[str]) -> tuple[float, str, str, str]:
    """The smallest distance between any two, under any vision; and which two, under which."""
    return min((distance(one, other, vision), one, other, vision)
               for one, other in combinations(colors, 2) for vision in VISIONS)  # fmt: skip


def luminance(color: str) -> float:
    """Relative, 0 to 1."""
    return float(linear(color) @ _TO_XYZ[1])


def contrast(one: str, other: str) -> float:
    """1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _cos(degrees: Floats) -> Floats:
    return np.asarray(np.cos(np.radians(degrees)))
