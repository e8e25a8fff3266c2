"""The one picture of all methods."""

from __future__ import annotations

from PIL import Image

from trainer.demo.sheet import LINE_PX, MARGIN_PX, Band, overview


def test_every_band_stands_under_its_lines() -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    sheet = overview([Band(("a", "b"), ([red, red],)), Band(("c",), ([blue],))])
    # contact sheets have a gap of 4 px around each picture, and are doubled: 24 x 2 high
    first, second = 2 * LINE_PX + MARGIN_PX, LINE_PX + MARGIN_PX
    assert sheet.size == (2 * (8 + 8 + 3 * 4), first + 32 + second + 32)
    assert sheet.getpixel((12, first + 12)) == (255, 0, 0)
    assert sheet.getpixel((12, first + 32 + second + 12)) == (0, 0, 255)
    dark = [
        y for y in range(sheet.height) if min(sheet.getpixel((x, y))[1] for x in range(8, 16)) < 99
    ]
    assert any(y < first for y in dark)
    assert any(first + 32 <= y < first + 32 + second for y in dark)
