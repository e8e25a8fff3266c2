"""One picture that shows what every demonstrated method did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..evaluate.draw import contact_sheet

LINE_PX = 16
MARGIN_PX = 4


@dataclass(frozen=True)
class Band:
    """What one method did."""

    lines: tuple[str, ...]
    """Its title and scores."""
    rows: tuple[Sequence[Image.Image], ...]
    """The same prompts and seeds in each, from before to after."""


def enlarged(sheet: Image.Image) -> Image.Image:
    """Twice as large, so that 64 pixels can be looked at."""
    return sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST)


def overview(bands: Sequence[Band]) -> Image.Image:
    """All bands, one below the other, each under its lines."""
    parts = [(band.lines, enlarged(contact_sheet(band.rows))) for band in bands]
    heights = [len(lines) * LINE_PX + MARGIN_PX + sheet.height for lines, sheet in parts]
    sheet = Image.new("RGB", (max(part.width for _, part in parts), sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (lines, part), height in zip(parts, heights, strict=True):
        for number, line in enumerate(lines):
            draw.text((2 * MARGIN_PX, top + MARGIN_PX + number * LINE_PX), line, fill="black")
        sheet.paste(part, (0, top + height - part.height))
        top += height
    return sheet
