"""Letters of any script: the installed fonts that have what a text needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

UPRIGHT = frozenset({400, "normal", "regular", "book", "medium"})
"""What matplotlib calls the weight of a font that is neither light nor bold."""


@dataclass(frozen=True)
class Font:
    """A font file, and which of the wanted letters are written with it."""

    family: str
    path: str
    letters: frozenset[str]


def fonts_for(text: str) -> tuple[Font, ...]:
    """The fonts that together have a text's letters, as far as installed ones have them.

    The first is matplotlib's own, which has the European scripts and is always there.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return _fonts_for(frozenset(letter for letter in text if letter.isprintable()))


def runs(text: str, fonts: Sequence[Font]) -> Iterator[tuple[int, str]]:
    """The text in parts that one font writes: its number, and the part."""

    def number(letter: str) -> int:
        return next((i for i, font in enumerate(fonts) if letter in font.letters), 0)

    for found, letters in groupby(text, number):
        yield found, "".join(letters)


@lru_cache(maxsize=32)
def _fonts_for(letters: frozenset[str]) -> tuple[Font, ...]:
    from matplotlib import get_data_path

    own = str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    fonts = [Font("DejaVu Sans", own, _held(own, letters))]
    missing = letters - fonts[0].letters
    others = _installed(missing) if missing else []
    while others and missing:
        best = max(others, key=lambda font: len(font.letters & missing))
        fonts.append(best)
        missing -= best.letters
        others = [font for font in others if font.letters & missing]
    return tuple(fonts)


def _installed(letters: frozenset[str]) -> list[Font]:
    """The upright fonts of this machine that have some of the letters, by their names.

    Not matplotlib's others: they are for formulas, and one has a box for every letter.
    """
    from matplotlib import get_data_path
    from matplotlib.font_manager import fontManager

    files = {
        entry.fname: entry.name
        for entry in fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in UPRIGHT
        and not entry.fname.startswith(get_data_path())
    }
    found = [Font(name, path, _held(path, letters)) for path, name in files.items()]
    return sorted((font for font in found if font.letters), key=lambda font: font.family)


def _held(path: str, letters: frozenset[str]) -> frozenset[str]:
    """Those of the letters that a font has; none where it cannot be read or drawn in any size."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(letter for letter in letters if font.get_char_index(ord(letter)))
