"""Captions that change each time their picture comes: tags mixed, words drawn, parts left out."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from functools import partial

from ..settings.groups import CaptionSettings
from .captions import with_trigger

SEPARATOR = ","
"""Between tags."""
_CHOICE = re.compile(r"\{([^{}]*)\}")
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for doubled brackets while single ones are read; private, so in no caption."""
Choose = Callable[[Sequence[str]], str]


class CaptionVariants:
    """What a picture is trained under, each time it comes.

    Args:
        settings: how captions vary.
        trigger_word: stays in front of every caption but a dropped one.
        seed: of the training; the same captions follow from it and the place in the data.
    """

    def __init__(self, settings: CaptionSettings, trigger_word: str = "", seed: int = 0) -> None:
        self._settings = settings
        self._trigger = with_trigger(trigger_word, "")
        self._seed = seed

    @property
    def varies(self) -> bool:
        """Whether a picture's caption is not always the same."""
        wanted = self._settings
        return bool(
            wanted.shuffle_tags
            or wanted.tag_dropout_rate
            or wanted.caption_dropout_rate
            or wanted.caption_dropout_every_epochs
            or wanted.wildcards
        )

    def at(
        self,
        captions: Sequence[str],
        epoch: int,
        batch: int,
        *,
        bare: Sequence[bool] | None = None,
    ) -> tuple[str, ...]:
        """The captions of a batch.

        Args:
            captions: as the pictures have them, the trigger word in front.
            epoch: from 0.
            batch: the batch's number within the epoch.
            bare: which get neither prefix nor suffix; None: all get them.
        """
        bare = (False,) * len(captions) if bare is None else bare
        both = list(zip(captions, bare, strict=True))
        if not self.varies:
            return tuple(self.plain(caption, bare=alone) for caption, alone in both)
        # a text seed is hashed with SHA-512, so that neighbouring seeds share nothing
        draw = random.Random(f"{self._seed}/captions/{epoch}/{batch}")
        return tuple(self._drawn(caption, alone, epoch, draw) for caption, alone in both)

    def plain(self, caption: str, *, bare: bool = False) -> str:
        """A caption of which nothing is drawn."""
        text = self._text(caption, bare)
        mark, other = self._settings.keep_tokens_separator, self._settings.secondary_separator
        if mark and mark in text:
            text = f"{SEPARATOR} ".join(_tags(text.replace(mark, SEPARATOR)))
        return with_trigger(
            self._split(caption)[0], text.replace(other, SEPARATOR) if other else text
        )

    def readings(self, caption: str, *, bare: bool = False) -> tuple[str, ...]:
        """Plain forms of a caption in which each of its lines and words occurs, each once.

        The first has the first line, with the first word of each {a|b}.  Of choices within
        choices some words may not occur.
        """
        if not self._settings.wildcards:
            return (self.plain(caption, bare=bare),)
        trigger, own = self._split(caption)
        worded = (
            _worded(line, partial(_in_turn, number))
            for line in _lines(own)
            for number in range(_turns(line))
        )
        read = (self.plain(with_trigger(trigger, text), bare=bare) for text in worded)
        return tuple(dict.fromkeys(read))

    def _drawn(self, caption: str, bare: bool, epoch: int, draw: random.Random) -> str:
        wanted = self._settings
        # drawn in any case, so that one caption's fate does not change the next one's
        dropped = draw.random() < wanted.caption_dropout_rate
        every = wanted.caption_dropout_every_epochs
        if wanted.wildcards:
            trigger, own = self._split(caption)
            choose = partial(_one_of, draw=draw)
            caption = with_trigger(trigger, _worded(choose(_lines(own)), choose))
        head, flexible, tail = self._parts(caption, bare)
        if wanted.shuffle_tags:
            # `random()` is the one sequence that Python promises never to change
            flexible = sorted(flexible, key=lambda _: draw.random())
        if wanted.tag_dropout_rate:
            flexible = [tag for tag in flexible if draw.random() >= wanted.tag_dropout_rate]
        if dropped or (every and (epoch + 1) % every == 0):
            return ""
        if not wanted.shuffle_tags and not wanted.tag_dropout_rate:
            return self.plain(caption, bare=bare)
        return self._joined([*head, *flexible, *tail])

    def _text(self, caption: str, bare: bool) -> str:
        """A caption without its trigger, between prefix and suffix."""
        own = " ".join(self._split(caption)[1].split())
        if bare:
            return own
        prefix, suffix = (
            text.strip() for text in (self._settings.caption_prefix, self._settings.caption_suffix)
        )
        text = " ".join(part for part in (prefix, own) if part)
        space = " " if text and suffix and not suffix.startswith(SEPARATOR) else ""
        return f"{text}{space}{suffix}"

    def _parts(self, caption: str, bare: bool) -> tuple[list[str], list[str], list[str]]:
        """Tags that stay in front, those that may move, and those that stay at the end."""
        wanted, text = self._settings, self._text(caption, bare)
        mark = wanted.keep_tokens_separator
        if mark and mark in text:
            first, *rest = text.split(mark, 2)
            head, flexible = _tags(first), _tags(rest[0])
            tail = _tags(rest[1]) if len(rest) > 1 else []
        else:
            tags = _tags(text)
            head, flexible, tail = tags[: wanted.keep_tokens], tags[wanted.keep_tokens :], []
        return [*_tags(self._split(caption)[0]), *head], flexible, tail

    def _split(self, caption: str) -> tuple[str, str]:
        """The trigger word, if it is in front, and the rest."""
        if self._trigger and caption == self._trigger:
            return self._trigger, ""
        start = f"{self._trigger}{SEPARATOR} "
        if self._trigger and caption.startswith(start):
            return self._trigger, caption[len(start) :]
        return "", caption

    def _joined(self, tags: Sequence[str]) -> str:
        text = f"{SEPARATOR} ".join(tags)
        mark = self._settings.secondary_separator
        return text.replace(mark, SEPARATOR) if mark else text


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(SEPARATOR) if tag.strip()]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()] or [""]


def _worded(line: str, choose: Choose) -> str:
    """A line with one of the words of each {a|b}."""
    line = line.replace("{{", _OPEN).replace("}}", _CLOSE)
    while _CHOICE.search(line):
        line = _CHOICE.sub(lambda match: choose(match[1].split("|")), line)
    return line.replace(_OPEN, "{").replace(_CLOSE, "}")


def _turns(line: str) -> int:
    """In how many readings of a line each word has its turn: as many as the widest choice has.

    Of choices within choices, that many times as many; never more than there are words.
    """
    widths = [1]

    def choose(items: Sequence[str]) -> str:
        widths.append(len(set(items)))
        return items[0]

    _worded(line, choose)
    return min(max(widths) ** 2, line.count("|") + 1)


def _one_of(items: Sequence[str], draw: random.Random) -> str:
    return items[int(draw.random() * len(items))]


def _in_turn(number: int, items: Sequence[str]) -> str:
    each = list(dict.fromkeys(items))
    return each[number % len(each)]
