"""The embedded world: its vocabulary, its pictures and its captions.

A picture holds one shape in one named colour on a background of another named colour; the
shape may be striped, holed, small or large.  Everything here is plain numpy and Pillow, so
that the judge, the tests and the script that trains the checkpoint all share one declaration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating[Any]]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 225, 60),
    "green": (50, 160, 70),
    "blue": (45, 85, 220),
    "purple": (145, 60, 185),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
"""The shapes that the checkpoint was trained to draw."""
NOVEL_SHAPES = ("crescent", "arrow")
"""Shapes that only the judge (and the autoencoder) has seen: what a LoRA can be taught."""
ATTRIBUTES = ("striped", "holed")
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.43, 0.47),
    "normal": (0.56, 0.63),
    "large": (0.74, 0.80),
}
"""Diameter of the shape as a fraction of the picture's shorter side, from and to."""

STRIPE_BANDS = 5
HOLE_RADIUS = 0.30
SUPERSAMPLING = 4
COLOUR_JITTER = 6


@dataclass(frozen=True)
class Scene:
    """What a picture shows; the words of its caption follow from it."""

    shape: str
    colour: str
    background: str
    striped: bool = False
    holed: bool = False
    size: str = "normal"

    def attributes(self) -> tuple[str, ...]:
        return tuple(name for name in ATTRIBUTES if getattr(self, name))


@dataclass(frozen=True)
class Placement:
    """Where the shape lies: centre and diameter in units of the picture's shorter side."""

    centre_y: float
    centre_x: float
    diameter: float


def random_scene(rng: np.random.Generator, shapes: tuple[str, ...] = SHAPES) -> Scene:
    """Draws a scene; a third of the shapes carry an attribute and a quarter a size word."""
    colour, background = rng.choice(list(COLOURS), size=2, replace=False)
    return Scene(
        shape=str(rng.choice(shapes)),
        colour=str(colour),
        background=str(background),
        striped=bool(rng.random() < 0.2),
        holed=bool(rng.random() < 0.2),
        size=str(rng.choice(list(SIZES), p=(0.15, 0.7, 0.15))),
    )


def random_placement(
    rng: np.random.Generator, size: str, height_px: int, width_px: int
) -> Placement:
    """Draws a position near the middle at which the whole shape fits into the picture."""
    short = min(height_px, width_px)
    height, width = height_px / short, width_px / short
    diameter = rng.uniform(*SIZES[size])
    free_y, free_x = (height - diameter) / 2 - 0.04, (width - diameter) / 2 - 0.04
    return Placement(
        centre_y=height / 2 + rng.uniform(-0.5, 0.5) * free_y,
        centre_x=width / 2 + rng.uniform(-0.5, 0.5) * free_x,
        diameter=diameter,
    )


def outline(shape: str) -> Floats:
    """The shape's polygon.

    Returns:
        float64 [points, 2] of (x, y), y downwards, centred, the longer side of its bounding
        box reaching from -1 to 1.

    Raises:
        ValueError: for a name that is neither in `SHAPES` nor in `NOVEL_SHAPES`.
    """
    turn = np.linspace(0, 2 * math.pi, 96, endpoint=False)
    if shape == "circle":
        points = np.stack([np.cos(turn), np.sin(turn)], 1)
    elif shape == "square":
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    elif shape == "triangle":
        points = np.array([(0, -1), (1.05, 0.85), (-1.05, 0.85)])
    elif shape == "star":
        angle = -math.pi / 2 + np.arange(10) * math.pi / 5
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    elif shape == "cross":
        a = 0.36
        points = np.array(
            [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a),
             (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
        )  # fmt: skip
    elif shape == "heart":
        x = 16 * np.sin(turn) ** 3
        y = -13 * np.cos(turn) + 5 * np.cos(2 * turn) + 2 * np.cos(3 * turn) + np.cos(4 * turn)
        points = np.stack([x, y], 1)
    elif shape == "crescent":
        outer = np.linspace(0.22 * math.pi, 1.78 * math.pi, 48)
        tip = np.array([math.cos(outer[0]), math.sin(outer[0])])
        bite = 0.62
        reach = math.hypot(tip[0] - bite, tip[1])
        opening = math.atan2(tip[1], tip[0] - bite)
        inner = np.linspace(2 * math.pi - opening, opening, 48)
        points = np.concatenate(
            [
                np.stack([np.cos(outer), np.sin(outer)], 1),
                np.stack([bite + reach * np.cos(inner), reach * np.sin(inner)], 1),
            ]
        )
    elif shape == "arrow":
        points = np.array(
            [(-1, -0.32), (0.1, -0.32), (0.1, -0.85), (1, 0), (0.1, 0.85), (0.1, 0.32), (-1, 0.32)]
        )
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES + NOVEL_SHAPES)}")
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) / ((high - low).max() / 2)


def coverage(scene: Scene, placement: Placement, height_px: int, width_px: int) -> Floats:
    """How much of every pixel the shape covers.

    Returns:
        float32 [height_px, width_px], 0 (background) to 1 (shape), anti-aliased.
    """
    return polygon_coverage(
        outline(scene.shape), placement, height_px, width_px, scene.striped, scene.holed
    )


def polygon_coverage(
    polygon: Floats,
    placement: Placement,
    height_px: int,
    width_px: int,
    striped: bool = False,
    holed: bool = False,
) -> Floats:
    """`coverage` for any polygon in the units of `outline`."""
    scale = min(height_px, width_px) * SUPERSAMPLING
    centre = np.array([placement.centre_x, placement.centre_y]) * scale
    radius = placement.diameter / 2 * scale
    points = centre + polygon * radius
    canvas = Image.new("L", (width_px * SUPERSAMPLING, height_px * SUPERSAMPLING), 0)
    draw = ImageDraw.Draw(canvas)
    draw.polygon([tuple(point) for point in points], fill=255)
    left, top = points.min(0)
    right, bottom = points.max(0)
    if striped:
        band = (bottom - top) / STRIPE_BANDS
        for k in range(1, STRIPE_BANDS, 2):
            end = max(top + k * band, top + (k + 1) * band - 1)
            draw.rectangle((left - 1, top + k * band, right + 1, end), fill=0)
    if holed:
        middle = (points.min(0) + points.max(0)) / 2
        hole = HOLE_RADIUS * radius
        draw.ellipse((*(middle - hole), *(middle + hole)), fill=0)
    return np.asarray(canvas.reduce(SUPERSAMPLING), np.float32) / 255


def draw(
    scene: Scene,
    height_px: int = 64,
    width_px: int = 64,
    rng: np.random.Generator | None = None,
    placement: Placement | None = None,
) -> Image.Image:
    """Draws the scene.

    Args:
        rng: source of position, diameter and slight colour changes; without it the shape lies
            in the middle in exact colours.
        placement: fixes the position, for pairs of pictures that differ in one attribute only.
    """
    if placement is None:
        placement = (
            random_placement(rng, scene.size, height_px, width_px)
            if rng is not None
            else centred_placement(scene.size, height_px, width_px)
        )
    covered = coverage(scene, placement, height_px, width_px)[..., None]
    shape_rgb, background_rgb = (
        np.array(COLOURS[name], np.float32)
        + (rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, 3) if rng is not None else 0)
        for name in (scene.colour, scene.background)
    )
    pixels = covered * shape_rgb + (1 - covered) * background_rgb
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def centred_placement(size: str, height_px: int, width_px: int) -> Placement:
    """The shape in the middle, at the middle of its size's range."""
    short = min(height_px, width_px)
    return Placement(height_px / short / 2, width_px / short / 2, sum(SIZES[size]) / 2)


def sentence(scene: Scene, noun: str | None = None) -> str:
    """The caption as a sentence: "a large striped red circle on a white background"."""
    size = [] if scene.size == "normal" else [scene.size]
    words = [*size, *scene.attributes(), scene.colour, noun or scene.shape]
    return f"a {' '.join(words)} on a {scene.background} background"


def tags(scene: Scene, rng: np.random.Generator | None = None, noun: str | None = None) -> str:
    """The caption in tag style: "red circle, white background, striped", shuffled by `rng`."""
    parts = [f"{scene.colour} {noun or scene.shape}", f"{scene.background} background"]
    parts += scene.attributes()
    if scene.size != "normal":
        parts.append(scene.size)
    if rng is not None:
        rng.shuffle(parts)
    return ", ".join(parts)


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as the training pictures carry them: a sentence, tags, or nothing (10 %)."""
    style = rng.random()
    if style < 0.1:
        return ""
    if style < 0.4:
        return tags(scene, rng)
    opening = rng.choice(["", "", "", "a picture of ", "a photo of ", "a drawing of "])
    return str(opening) + sentence(scene)


def without_words(scene: Scene) -> Scene:
    """The same scene with neither attributes nor a size word."""
    return replace(scene, striped=False, holed=False, size="normal")
