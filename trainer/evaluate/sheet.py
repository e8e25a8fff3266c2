"""Pictures in labelled rows and columns, as one picture."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from .fonts import Font, fonts_for, runs

Drawn = ImageFont.FreeTypeFont | ImageFont.ImageFont
Row = Sequence[Image.Image | None]

GAP_PX = 4
INK, PAPER = "#1f2937", "#ffffff"
MOST_PIXELS = 24_000_000
"""Of all cells together; larger ones are drawn smaller, so that a browser can show the sheet."""


@dataclass(frozen=True)
class Block:
    """A table of pictures under one title."""

    title: str
    corner: str
    """What the columns are: stands over the labels of the rows."""
    columns: Sequence[str]
    rows: Sequence[str]
    pictures: Sequence[Row]
    """Row by row; None leaves a cell empty."""


def labelled_sheet(blocks: Sequence[Block], cell_px: tuple[int, int]) -> Image.Image:
    """The blocks one below the other.

    Args:
        blocks: tables with the same number of columns.
        cell_px: (height, width) of the pictures; they are shown smaller where there are many.

    Returns:
        An RGB picture on white.
    """
    height, width = _cell(blocks, cell_px)
    labels = [label for block in blocks for label in (*block.rows, block.corner)]
    others = [text for block in blocks for text in (block.title, *block.columns)]
    script = Script("".join([*labels, *others]), max(12, min(28, width // 14)))
    line = script.height_px + 2 * GAP_PX
    left = int(max(map(script.width_px, labels))) + 3 * GAP_PX
    columns = max(len(block.columns) for block in blocks)
    total_width = left + columns * (width + GAP_PX)
    heights = [2 * line + len(block.rows) * (height + GAP_PX) for block in blocks]
    sheet = Image.new("RGB", (total_width, sum(heights) + GAP_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    top = 0
    for block, block_height in zip(blocks, heights, strict=True):
        title = script.shortened(block.title, total_width - 2 * GAP_PX)
        script.write(pen, (GAP_PX, top), title)
        script.write(pen, (GAP_PX, top + line), block.corner)
        for x, label in enumerate(block.columns):
            script.write(pen, (left + x * (width + GAP_PX), top + line), label)
        for y, (label, row) in enumerate(zip(block.rows, block.pictures, strict=True)):
            at = top + 2 * line + y * (height + GAP_PX)
            script.write(pen, (GAP_PX, at), label)
            for x, picture in enumerate(row):
                if picture is not None:
                    sheet.paste(_fitted(picture, height, width), (left + x * (width + GAP_PX), at))
        top += block_height
    return sheet


def _cell(blocks: Sequence[Block], cell_px: tuple[int, int]) -> tuple[int, int]:
    """The size of a cell at which all of them stay within the limit."""
    cells = sum(len(block.rows) * len(block.columns) for block in blocks)
    shrink = min(1.0, (MOST_PIXELS / (cells * cell_px[0] * cell_px[1])) ** 0.5)
    return max(1, int(cell_px[0] * shrink)), max(1, int(cell_px[1] * shrink))


def _fitted(picture: Image.Image, height: int, width: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


class Script:
    """Writes lines of text, each letter in the first font that has it."""

    def __init__(self, text: str, size_px: int) -> None:
        """Args: text: everything that is to be written."""
        try:
            self._fonts: tuple[Font, ...] = fonts_for(text)
            self._drawn: list[Drawn] = [ImageFont.truetype(f.path, size_px) for f in self._fonts]
        except (ImportError, OSError):  # Pillow's own knows Latin letters only
            self._fonts, self._drawn = (), [ImageFont.load_default()]
        self.height_px = int(self._drawn[0].getbbox("Ag")[3])

    def write(self, pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str) -> None:
        """Writes a line whose letters begin below `at`, all on the first font's base line."""
        x, y = float(at[0]), at[1] + GAP_PX
        for number, part in runs(self._known(text), self._fonts):
            font = self._drawn[number]
            lower = _ascent(self._drawn[0]) - _ascent(font)
            pen.text((x, y + lower), part, fill=INK, font=font)
            x += font.getlength(part)

    def width_px(self, text: str) -> float:
        parts = runs(self._known(text), self._fonts)
        return sum(self._drawn[number].getlength(part) for number, part in parts)

    def shortened(self, text: str, width: int) -> str:
        """The text, cut so that it fits."""
        if self.width_px(text) <= width:
            return text
        lengths = range(len(text) + 1)
        fitting = bisect_right(lengths, width, key=lambda n: int(self.width_px(text[:n] + "...")))
        return text[: max(0, fitting - 1)] + "..."

    def _known(self, text: str) -> str:
        return text if self._fonts else text.encode("latin-1", "replace").decode("latin-1")


def _ascent(font: Drawn) -> int:
    return font.getmetrics()[0] if isinstance(font, ImageFont.FreeTypeFont) else 0
