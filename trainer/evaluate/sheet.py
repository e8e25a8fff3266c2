"""Pictures in labelled rows and columns, as one picture."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
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
    font = _font(max(12, min(28, width // 14)))
    line = int(font.getbbox("Ag")[3]) + 2 * GAP_PX
    labels = [label for block in blocks for label in (*block.rows, block.corner)]
    left = int(max(font.getlength(_known(label, font)) for label in labels)) + 3 * GAP_PX
    columns = max(len(block.columns) for block in blocks)
    total_width = left + columns * (width + GAP_PX)
    heights = [2 * line + len(block.rows) * (height + GAP_PX) for block in blocks]
    sheet = Image.new("RGB", (total_width, sum(heights) + GAP_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    top = 0
    for block, block_height in zip(blocks, heights, strict=True):
        _text(pen, (GAP_PX, top), _shortened(block.title, font, total_width - 2 * GAP_PX), font)
        _text(pen, (GAP_PX, top + line), block.corner, font)
        for x, label in enumerate(block.columns):
            _text(pen, (left + x * (width + GAP_PX), top + line), label, font)
        for y, (label, row) in enumerate(zip(block.rows, block.pictures, strict=True)):
            at = top + 2 * line + y * (height + GAP_PX)
            _text(pen, (GAP_PX, at), label, font)
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


def _text(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, font: Font) -> None:
    pen.text((at[0], at[1] + GAP_PX), _known(text, font), fill=INK, font=font)


def _shortened(text: str, font: Font, width: int) -> str:
    """The text, cut so that it fits."""
    known = _known(text, font)
    if font.getlength(known) <= width:
        return known
    lengths = range(len(known) + 1)
    fitting = bisect_right(lengths, width, key=lambda n: int(font.getlength(known[:n] + "...")))
    return known[: max(0, fitting - 1)] + "..."


def _known(text: str, font: Font) -> str:
    """The text as far as the font has it: Pillow's own knows Latin letters only."""
    if isinstance(font, ImageFont.FreeTypeFont):
        return text
    return text.encode("latin-1", "replace").decode("latin-1")


def _font(size_px: int) -> Font:
    """The font that matplotlib carries, or Pillow's small one."""
    try:
        from matplotlib import get_data_path

        file = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        return ImageFont.truetype(str(file), size_px)
    except (ImportError, OSError):
        return ImageFont.load_default()
