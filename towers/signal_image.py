"""Image statistics that need no weights: colour, texture and layout, in NumPy.

Every group is scaled to about -1..1; standardisation over the catalogue is left to the tower.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from towers.encoder_card import EncoderCard, fingerprint

HUES, LEVELS, ORIENTATIONS, GRID, BANDS, SECTORS = 16, 8, 8, 4, 4, 8


class SignalImageEncoder:
    """Colour histograms and moments, gradient orientations, texture energy and a polar power spectrum.

    With h, s, v and L, a, b the pixel's HSV and CIELAB values, the vector of one image concatenates

    - square roots of the histograms of h (weighted by s v), s and v: 16 + 8 + 8,
    - mean, standard deviation and cube root of the third central moment of L, a, b: 9,
    - mean L, a, b in each cell of a 4 x 4 grid (the layout): 48,
    - for the whole image and its 2 x 2 quarters: the gradient-orientation histogram of L (8 unsigned directions,
      weighted by magnitude, normalised) and the log mean magnitude: 45,
    - log energy of 3 Laplacian pyramid bands on the same 5 regions: 15,
    - log share of spectral power in 4 octaves x 8 directions, which tells stripes, dots and noise apart: 32.

    References: Stricker and Orengo 1995 (colour moments); Dalal and Triggs 2005 (orientation histograms); Lazebnik,
    Schmid and Ponce 2006 (spatial pyramid).

    Shapes: images uint8 [B, H, W, 3] with H = W = `size` -> float32 [B, 181].

    Example:
        >>> SignalImageEncoder().encode(np.zeros((2, 96, 96, 3), np.uint8)).shape
        (2, 181)
    """

    modality = "image"
    name = "signal:"
    version = 1

    def __init__(self, size: int = 96) -> None:
        if size < 16 or size % 4:
            raise ValueError(f"size: must be a multiple of 4 of at least 16, received {size}")
        card = self.card(size)
        self.size, self.width, self.fingerprint = card.size, card.width, card.fingerprint
        self.linear = _srgb_to_linear(np.arange(256) / 255.0).astype(np.float32)
        self.sectors = _polar_sectors(size)
        self.window = np.outer(np.hanning(size), np.hanning(size)).astype(np.float32)

    @classmethod
    def card(cls, size: int = 96) -> EncoderCard:
        """The facts of the encoder without making it."""
        width = HUES + 2 * LEVELS + 9 + 3 * GRID**2 + 5 * (ORIENTATIONS + 1) + 15 + BANDS * SECTORS
        return EncoderCard(cls.name, fingerprint("signal:image", cls.version, size), cls.modality, width, size)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """uint8 [B, size, size, 3] -> float32 [B, F_m]."""
        images = np.asarray(batch)
        expected = (self.size, self.size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"batch: must be uint8 [B, {expected}], received {images.dtype} {images.shape}")
        lab = _lab(self.linear[images])
        parts = [
            *_colour_histograms(images.astype(np.float32) / 255.0),
            _moments(lab),
            _cells(lab, GRID).reshape(len(images), -1),
            _orientations(lab[..., 0]),
            _band_energies(lab[..., 0]),
            self._spectrum(lab[..., 0]),
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _spectrum(self, light: np.ndarray) -> np.ndarray:
        """Log power shares [B, BANDS * SECTORS] of the windowed, centred lightness [B, H, W]."""
        centred = (light - light.mean(axis=(1, 2), keepdims=True)) * self.window
        power = np.abs(np.fft.rfft2(centred)).astype(np.float32) ** 2
        pooled = power.reshape(len(light), -1) @ self.sectors
        shares = pooled / (pooled.sum(axis=1, keepdims=True) + 1e-6)
        return 0.2 * np.log(shares + 1e-4) + 0.7


def _srgb_to_linear(value: np.ndarray) -> np.ndarray:
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB [B, H, W, 3], divided by 100 so that L is 0..1 and a, b about -1..1."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ (to_xyz / np.array([[0.95047], [1.0], [1.08883]])).T.astype(np.float32)
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], axis=-1)


def _colour_histograms(rgb: np.ndarray) -> Iterator[np.ndarray]:
    """Square-rooted histograms of hue, saturation and value of RGB [B, H, W, 3] in 0..1."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    value = rgb.max(axis=-1)
    chroma = value - rgb.min(axis=-1)
    safe = np.where(chroma > 0, chroma, 1)
    hue = np.where(
        value == red,
        ((green - blue) / safe) % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    saturation = chroma / np.where(value > 0, value, 1)
    # chroma = s v: grey and black pixels have no hue, so they must not vote
    yield _histogram(hue / 6, HUES, chroma)
    yield _histogram(saturation, LEVELS)
    yield _histogram(value, LEVELS)


def _histogram(values: np.ndarray, bins: int, weights: np.ndarray | None = None) -> np.ndarray:
    """sqrt(weighted histogram / number of pixels) [B, bins] of values [B, ...] in 0..1."""
    images = len(values)
    index = np.minimum((values * bins).astype(np.int64), bins - 1).reshape(images, -1)
    offset = index + bins * np.arange(images)[:, None]
    votes = None if weights is None else weights.ravel()
    counts = np.bincount(offset.ravel(), votes, minlength=images * bins).reshape(images, bins)
    return np.sqrt(counts / index.shape[1])


def _moments(lab: np.ndarray) -> np.ndarray:
    # channels first: sums along contiguous pixels are pairwise, so both faster and more exact in float32
    flat = np.ascontiguousarray(np.moveaxis(lab.reshape(len(lab), -1, 3), 1, 2))
    mean = flat.mean(axis=2)
    centred = flat - mean[..., None]
    square = centred * centred
    third = (square * centred).mean(axis=2)
    return np.concatenate([mean, np.sqrt(square.mean(axis=2)), np.cbrt(third)], axis=1)


def _cells(values: np.ndarray, grid: int) -> np.ndarray:
    """Means of [B, H, W, ...] over the cells of a grid: [B, grid, grid, ...]."""
    batch, height, width = values.shape[:3]
    split = values.reshape(batch, grid, height // grid, grid, width // grid, *values.shape[3:])
    return split.mean(axis=(2, 4))


def _regions(values: np.ndarray) -> np.ndarray:
    """Means of [B, H, W, C] over the whole and its quarters: [B, 5, C]."""
    quarters = _cells(values, 2).reshape(len(values), 4, -1)
    return np.concatenate([quarters.mean(axis=1, keepdims=True), quarters], axis=1)


def _orientations(light: np.ndarray) -> np.ndarray:
    dy, dx = np.gradient(light, axis=(1, 2))
    magnitude = np.hypot(dx, dy)
    angle = (np.arctan2(dy, dx) / np.pi) % 1.0
    bin_of = np.minimum((angle * ORIENTATIONS).astype(np.int64), ORIENTATIONS - 1)
    votes = magnitude[..., None] * (bin_of[..., None] == np.arange(ORIENTATIONS))
    pooled = _regions(votes)
    total = pooled.sum(axis=-1, keepdims=True)
    features = np.concatenate([np.sqrt(pooled / (total + 1e-4)), 0.2 * np.log(total + 1e-4) + 1], axis=-1)
    return features.reshape(len(light), -1)


def _band_energies(light: np.ndarray) -> np.ndarray:
    """Log energy of three Laplacian bands (image minus its 2 x 2 mean, halved each time) on the five regions."""
    bands = []
    for _ in range(3):
        batch, height, width = light.shape
        height, width = height // 2 * 2, width // 2 * 2
        light = light[:, :height, :width]
        smaller = light.reshape(batch, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
        detail = (light - smaller.repeat(2, axis=1).repeat(2, axis=2)) ** 2
        even_height, even_width = height // 4 * 4, width // 4 * 4
        bands.append(_regions(detail[:, :even_height, :even_width, None]).reshape(batch, -1))
        light = smaller
    return 0.2 * np.log(np.concatenate(bands, axis=1) + 1e-6) + 1.5


def _polar_sectors(size: int) -> np.ndarray:
    """0/1 matrix [size * (size // 2 + 1), BANDS * SECTORS]: the octave and direction of every rfft2 coefficient."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    radius = np.hypot(fy, fx)
    octave = np.floor(np.log2(np.maximum(radius, 1e-9) / 0.5)).astype(int) + BANDS  # last octave ends at Nyquist
    direction = np.floor((np.arctan2(fy, fx) / np.pi) % 1.0 * SECTORS + 0.5).astype(int) % SECTORS
    sectors = np.zeros((radius.size, BANDS * SECTORS), np.float32)
    flat = (np.clip(octave, 0, BANDS - 1) * SECTORS + direction).ravel()
    keep = (radius > 1.5 / size).ravel()  # the constant and its window leak are brightness, not texture
    sectors[np.flatnonzero(keep), flat[keep]] = 1.0
    return sectors
