"""The judge: reads shape, colour, background, attributes and size off a picture.

It works by synthesis: the silhouette found in the picture is compared with silhouettes that
`world` draws itself, so the judge knows nothing that the world does not declare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .world import (
    COLOURS,
    NOVEL_SHAPES,
    SHAPES,
    SIZES,
    Floats,
    Placement,
    Scene,
    outline,
    polygon_coverage,
)

Mask = NDArray[np.bool_]

UNKNOWN = "unknown"
TEMPLATE_PX = 32
MAX_COLOUR_DISTANCE = 75.0
"""Farthest a colour may lie from its name, Euclidean in 8-bit RGB (the palette is >= 87 apart)."""
MAX_SHAPE_ERROR = 0.13
"""Largest mean squared difference between a silhouette and its template, both in 0..1."""


@dataclass(frozen=True)
class Reading:
    """What the judge saw; `UNKNOWN` where the picture is not clear enough to tell."""

    shape: str
    colour: str
    background: str
    striped: bool
    holed: bool
    size: str
    shape_error: float
    stripes: float
    """How much nearer the silhouette is to the striped template: a continuous measure."""
    diameter: float
    """Longer side of the shape as a fraction of the picture's shorter side."""

    def shows(self, scene: Scene) -> bool:
        """Whether shape, colour and background are the scene's."""
        return (self.shape, self.colour, self.background) == (
            scene.shape,
            scene.colour,
            scene.background,
        )

    def shows_all(self, scene: Scene) -> bool:
        """Whether attributes and size are the scene's too."""
        return self.shows(scene) and (self.striped, self.holed, self.size) == (
            scene.striped,
            scene.holed,
            scene.size,
        )


def colour_name(rgb: Floats) -> str:
    """The nearest named colour, or `UNKNOWN` beyond `MAX_COLOUR_DISTANCE`."""
    names = list(COLOURS)
    distances = np.linalg.norm(np.array([COLOURS[n] for n in names], float) - rgb, axis=1)
    nearest = int(distances.argmin())
    return names[nearest] if distances[nearest] <= MAX_COLOUR_DISTANCE else UNKNOWN


@lru_cache(maxsize=1)
def _templates() -> tuple[list[tuple[str, bool, bool]], Floats]:
    keys, silhouettes = [], []
    for shape in SHAPES + NOVEL_SHAPES:
        for striped in (False, True):
            for holed in (False, True):
                drawn = polygon_coverage(
                    outline(shape), Placement(0.5, 0.5, 0.8), 160, 160, striped, holed
                )
                keys.append((shape, striped, holed))
                silhouettes.append(_normalise(drawn, _bounds(drawn > 0.5)))
    return keys, np.stack(silhouettes)


def _bounds(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def _normalise(silhouette: Floats, bounds: tuple[int, int, int, int]) -> Floats:
    """The silhouette's bounding box centred in a square and resampled to the template size."""
    top, bottom, left, right = bounds
    side = max(bottom - top, right - left)
    square = np.zeros((side, side), np.float32)
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    square[y : y + bottom - top, x : x + right - left] = silhouette[top:bottom, left:right]
    image = Image.fromarray(np.rint(square * 255).astype(np.uint8))
    resized = image.resize((TEMPLATE_PX, TEMPLATE_PX), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / 255


def _border(pixels: Floats) -> Floats:
    width = max(1, min(pixels.shape[:2]) // 24)
    ring = np.ones(pixels.shape[:2], bool)
    ring[width:-width, width:-width] = False
    return pixels[ring]


def read(image: Image.Image) -> Reading:
    """Reads one picture of any size."""
    pixels = np.asarray(image.convert("RGB"), np.float32)
    background_rgb = np.median(_border(pixels), axis=0)
    background = colour_name(background_rgb)
    distance = np.linalg.norm(pixels - background_rgb, axis=2)
    mask = _largest_part(distance > max(40.0, 0.4 * float(np.quantile(distance, 0.97))))
    if mask.sum() < 0.01 * mask.size:
        return Reading(UNKNOWN, UNKNOWN, background, False, False, UNKNOWN, 1.0, 0.0, 0.0)
    core = pixels[mask & (distance >= np.median(distance[mask]) * 0.85)]
    shape_rgb = np.median(core, axis=0)
    # Along the line from background to shape: 0..1, anti-aliased as the templates are.
    axis = shape_rgb - background_rgb
    silhouette = np.clip((pixels - background_rgb) @ axis / float(axis @ axis), 0, 1)
    silhouette = np.where(_grown(mask), silhouette, 0).astype(np.float32)
    bounds = _bounds(mask)
    keys, templates = _templates()
    errors = np.square(templates - _normalise(silhouette, bounds)).mean((1, 2))
    best = int(errors.argmin())
    shape, striped, holed = keys[best]
    plain = min(e for e, k in zip(errors, keys, strict=True) if k[0] == shape and not k[1])
    banded = min(e for e, k in zip(errors, keys, strict=True) if k[0] == shape and k[1])
    diameter = max(bounds[1] - bounds[0], bounds[3] - bounds[2]) / min(mask.shape)
    return Reading(
        shape=shape if errors[best] <= MAX_SHAPE_ERROR else UNKNOWN,
        colour=colour_name(shape_rgb),
        background=background,
        striped=striped,
        holed=holed,
        size=_size_name(diameter),
        shape_error=float(errors[best]),
        stripes=float(plain - banded),
        diameter=diameter,
    )


def _size_name(diameter: float) -> str:
    middles = {name: sum(bounds) / 2 for name, bounds in SIZES.items()}
    return min(middles, key=lambda name: abs(middles[name] - diameter))


def _grown(mask: Mask) -> Mask:
    """The mask and the pixels that touch it."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.logical_or.reduce(
        [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    )


def _largest_part(mask: Mask) -> Mask:
    """Drops specks: keeps the pixels within a shape's reach of the mask's median point."""
    if not mask.any():
        return mask
    ys, xs = np.nonzero(mask)
    reach = 0.5 * min(mask.shape)
    near = (abs(ys - np.median(ys)) <= reach) & (abs(xs - np.median(xs)) <= reach)
    kept = np.zeros_like(mask)
    kept[ys[near], xs[near]] = True
    return kept
