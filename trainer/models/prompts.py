"""Prompts in the webui's syntax: emphasis, BREAK and embeddings.

`(word)` counts 1.1 times, `[word]` 1/1.1 times, `(word:1.3)` 1.3 times, nested ones multiply, a
backslash before a bracket makes it a plain one, and BREAK begins a new window.  A window that is
full ends after its last comma if that is near.  An embedding's name stands for its vectors.

Source: the webui's manual, Features, "Attention/emphasis" and "BREAK keyword".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..data.transfer import to_device
from .text import CHUNK_TOKENS, Conditioning, Embedding, Insert, PromptEncoder, filled_up

STEP = 1.1
"""Factor of one pair of round brackets."""
BREAK = "BREAK"
NEW_WINDOW = -1.0
"""The weight that tells a BREAK from the word."""
Tokenize = Callable[[str], list[int]]
"""Plain text to token ids, without marks."""

ORIGINAL, NO_NORM, IGNORE, NONE = "Original", "No norm", "Ignore", "None"
"""What the webui does with emphasis: multiply and restore the mean, multiply, take the brackets
away, or take them as text."""
COMMA = ",</w>"
"""The vocabulary's entry for a comma."""

_BREAKS = re.compile(r"\s*\bBREAK\b\s*")
_TOKEN = re.compile(
    r"""\\[\\()\[\]]      # an escaped character
    | [(\[\])]            # a bracket
    | :\s*(?P<weight>[+-]?(\d+\.?\d*|\.\d+))\s*\)   # the end of a bracket with its weight
    | [^\\()\[\]:]+       # text
    | [:\\]               # a colon that is only text, a backslash that escapes nothing
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class PromptStyle:
    """What the user has set about prompts in the webui; the defaults are the webui's."""

    emphasis: str = ORIGINAL
    comma_reach: int = 20
    """A full window ends after its last comma if that is at most so many tokens back; 0: never."""
    embeddings: tuple[Embedding, ...] = ()

    def embedding_at(self, tokens: Sequence[int], place: int) -> Embedding | None:
        """The embedding whose name begins there; of several the one with the longest name."""
        found = [
            one
            for one in self.embeddings
            if one.name and tuple(tokens[place : place + len(one.name)]) == one.name
        ]
        return max(found, key=lambda one: len(one.name), default=None)

    def identity(self) -> str:
        """A text that is another one whenever prompts would be encoded differently."""
        return f"{self.emphasis} {self.comma_reach} {self.embeddings_digest()}"

    def embeddings_digest(self) -> str:
        """A text that is another one whenever an embedding is, in whatever order they are."""
        found = []
        for one in self.embeddings:
            digest = hashlib.sha256(repr(one.name).encode())
            for vectors in one.vectors:
                digest.update(vectors.detach().float().cpu().numpy().tobytes())
            found.append(digest.digest())
        return hashlib.sha256(b"".join(sorted(found))).hexdigest()


@dataclass(frozen=True)
class Piece:
    """A part of a prompt whose words count alike."""

    text: str
    weight: float

    @property
    def begins_window(self) -> bool:
        """Whether it is a BREAK; one inside brackets is a word of negative weight, as there."""
        return self.text == BREAK and self.weight == NEW_WINDOW


@dataclass
class _Open:
    bracket: str
    begin: int
    """Number of pieces before it."""


def parse(prompt: str) -> tuple[Piece, ...]:
    """The prompt's pieces with their weights; neighbours of equal weight are one piece."""
    texts: list[str] = []
    weights: list[float] = []
    stack: list[_Open] = []

    def close(bracket: str, factor: float) -> bool:
        """Multiplies what the innermost open bracket of this kind holds, if there is one."""
        for index in range(len(stack) - 1, -1, -1):
            if stack[index].bracket == bracket:
                begin = stack.pop(index).begin
                weights[begin:] = [weight * factor for weight in weights[begin:]]
                return True
        return False

    for match in _TOKEN.finditer(prompt):
        part = match[0]
        if part in "([":
            stack.append(_Open(part, len(texts)))
        elif not (
            (match["weight"] is not None and close("(", float(match["weight"])))
            or (part == ")" and close("(", STEP))
            or (part == "]" and close("[", 1 / STEP))
        ):
            for number, words in enumerate(_BREAKS.split(part.removeprefix("\\"))):
                if number:
                    texts.append(BREAK)
                    weights.append(NEW_WINDOW)  # inside brackets it becomes another weight
                texts.append(words)
                weights.append(1.0)
    for left in reversed(stack):  # a bracket that is never closed holds the rest
        factor = STEP if left.bracket == "(" else 1 / STEP
        weights[left.begin :] = [weight * factor for weight in weights[left.begin :]]
    return _joined(texts, weights)


def escaped(text: str, style: PromptStyle | None = None) -> str:
    """The prompt that is read as this text; BREAK becomes small, which has the same tokens."""
    if style is not None and style.emphasis == NONE:
        return text
    return re.sub(rf"\b{BREAK}\b", BREAK.lower(), re.sub(r"[\\()\[\]]", r"\\\g<0>", text))


def _joined(texts: Sequence[str], weights: Sequence[float]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for text, weight in zip(texts, weights, strict=True):
        if pieces and pieces[-1].weight == weight:
            pieces[-1] = Piece(pieces[-1].text + text, weight)
        else:
            pieces.append(Piece(text, weight))
    return tuple(piece for piece in pieces if piece.text)


class Item(NamedTuple):
    """What stands at one place of a window."""

    token: int
    weight: float
    embedding: Embedding | None = None
    row: int = 0
    """Which of the embedding's vectors stands here."""


def split(
    prompt: str, tokens: Tokenize, style: PromptStyle | None = None, comma: int | None = None
) -> list[list[Item]]:
    """A prompt's tokens in windows of at most 75; an empty prompt has one window.

    Args:
        comma: the comma's token.
    """
    style = style or PromptStyle()
    windows: list[list[Item]] = [[]]
    pieces = (Piece(prompt, 1.0),) if style.emphasis == NONE else parse(prompt)
    for piece in pieces:
        if piece.begins_window:
            windows.append([])
            continue
        weight = 1.0 if style.emphasis == IGNORE else piece.weight
        ids, place = tokens(piece.text), 0
        while place < len(ids):
            if len(windows[-1]) == CHUNK_TOKENS:
                windows += [_after_comma(windows[-1], comma, style.comma_reach, ids[place])]
            found = style.embedding_at(ids, place)
            if found is None:
                windows[-1].append(Item(ids[place], weight))
                place += 1
                continue
            vectors = min(len(found.vectors[0]), CHUNK_TOKENS)
            if len(windows[-1]) + vectors > CHUNK_TOKENS:
                windows.append([])
            windows[-1] += [Item(0, weight, found, row) for row in range(vectors)]
            place += len(found.name)
    if len(windows) > 1 and not windows[-1]:
        windows.pop()  # of a BREAK at the end
    return windows


def _after_comma(full: list[Item], comma: int | None, reach: int, coming: int) -> list[Item]:
    """Takes what stands after its last comma off a full window, if that is near."""
    places = [i for i, item in enumerate(full) if item.token == comma and item.embedding is None]
    if coming == comma or not places or len(full) - places[-1] > reach:
        return []
    moved = full[places[-1] + 1 :]
    del full[places[-1] + 1 :]
    return moved


def token_count(prompt: str, tokens: Tokenize) -> int:
    """Tokens of a prompt, without marks and without brackets."""
    return sum(len(window) for window in split(prompt, tokens))


def truncated(prompt: str, tokens: Tokenize, most_tokens: int) -> str:
    """The prompt without the words at its end that go beyond `most_tokens`."""
    words = prompt.split(" ")
    while len(words) > 1 and token_count(" ".join(words), tokens) > most_tokens:
        words.pop()
    return " ".join(words)


class WeightedEncoder:
    """Encodes prompts in the webui's syntax, for the UNet."""

    def __init__(self, encoder: PromptEncoder, style: PromptStyle | None = None) -> None:
        self.encoder = encoder
        self.style = style or PromptStyle()

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """States of `prompts`, [len(prompts), 77 * most windows, width].

        Every token's state is multiplied by its weight, and the whole prompt then by one factor
        that gives it back its mean, as the webui's emphasis "Original" does.  Each encoder's
        states have a factor of their own; the pooled output stays what it is.
        """
        encoder = self.encoder
        comma = encoder.tokenizer.convert_tokens_to_ids(COMMA)
        windows = filled_up([split(p, encoder.tokens, self.style, comma) for p in prompts])
        flat = [window for one in windows for window in one]
        weights = [_weights(window) for window in flat]
        plain = all(weight == 1 for row in weights for weight in row)

        def weighed(states: torch.Tensor) -> torch.Tensor:
            factors = to_device(torch.tensor(weights), states.device).to(states.dtype)[..., None]
            product = states * factors
            if self.style.emphasis == NO_NORM:
                return product
            # The webui takes the mean of a window's whole batch; here each window has its own.
            axes = (1, 2)
            return product * (states.mean(axes, True) / product.mean(axes, True))

        inserts = [
            Insert(number, place, item.embedding, item.row)
            for number, window in enumerate(flat)
            for place, item in enumerate(window, 1)
            if item.embedding is not None
        ]
        tokens = [[[item.token for item in window] for window in one] for one in windows]
        return encoder.encode_windows(tokens, None if plain else weighed, inserts)


def _weights(window: Sequence[Item]) -> list[float]:
    """One weight for each of the 77 places; marks and padding count once."""
    padding = CHUNK_TOKENS - len(window)
    return [1.0, *(item.weight for item in window), *[1.0] * (padding + 1)]
