"""Prompts in the webui's syntax: emphasis and BREAK.

`(word)` counts 1.1 times, `[word]` 1/1.1 times, `(word:1.3)` 1.3 times, nested ones multiply, a
backslash before a bracket makes it a plain one, and BREAK begins a new window.

Source: the webui's manual, Features, "Attention/emphasis" and "BREAK keyword".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .text import CHUNK_TOKENS, Conditioning, PromptEncoder, filled_up

STEP = 1.1
"""Factor of one pair of round brackets."""
BREAK = "BREAK"
Tokenize = Callable[[str], list[int]]
"""Plain text to token ids, without marks."""

_TOKEN = re.compile(
    r"""\\[\\()\[\]]      # an escaped character
    | [(\[\])]            # a bracket
    | :\s*(?P<weight>[+-]?(\d+\.?\d*|\.\d+))\s*\)   # the end of a bracket with its weight
    | [^\\()\[\]:]+       # text
    | [:\\]               # a colon or backslash that is only text
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Piece:
    """A part of a prompt whose words count alike."""

    text: str
    """Plain text, or `BREAK`."""
    weight: float


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
            escaped = part.startswith("\\") and len(part) == 2
            texts.append(part[1:] if escaped else part)
            weights.append(1.0)
    for left in reversed(stack):  # a bracket that is never closed holds the rest
        factor = STEP if left.bracket == "(" else 1 / STEP
        weights[left.begin :] = [weight * factor for weight in weights[left.begin :]]
    return _joined(texts, weights)


def _joined(texts: Sequence[str], weights: Sequence[float]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    for text, weight in zip(texts, weights, strict=True):
        parts = re.split(r"\s*\bBREAK\b\s*", text)
        for number, part in enumerate(parts):
            if number:
                pieces.append(Piece(BREAK, -1.0))
            if not part:
                continue
            if pieces and pieces[-1].weight == weight:
                pieces[-1] = Piece(pieces[-1].text + part, weight)
            else:
                pieces.append(Piece(part, weight))
    return tuple(pieces)


def split(prompt: str, tokens: Tokenize) -> list[list[tuple[int, float]]]:
    """Tokens with their weights, in windows of at most 75; an empty prompt has one window."""
    windows: list[list[tuple[int, float]]] = [[]]
    for piece in parse(prompt):
        if piece.text == BREAK and piece.weight == -1.0:
            windows.append([])
            continue
        for token in tokens(piece.text):
            if len(windows[-1]) == CHUNK_TOKENS:
                windows.append([])
            windows[-1].append((token, piece.weight))
    return windows


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

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """States of `prompts`, [len(prompts), 77 * most windows, width].

        Every token's state is multiplied by its weight, and the whole prompt then by one factor
        that gives it back its mean, as the webui's emphasis "Original" does.  Each encoder's
        states have a factor of their own; the pooled output stays what it is.
        """
        windows = [split(prompt, self.encoder.tokens) for prompt in prompts]
        weights = [_weights(window) for one in filled_up(windows) for window in one]

        plain = all(weight == 1 for row in weights for weight in row)

        def weighed(states: torch.Tensor) -> torch.Tensor:
            factors = torch.tensor(weights, device=states.device).to(states.dtype)[..., None]
            product = states * factors
            # The webui takes the mean of a window's whole batch; here each window has its own.
            axes = (1, 2)
            return product * (states.mean(axes, True) / product.mean(axes, True))

        tokens = [[[token for token, _ in window] for window in one] for one in windows]
        return self.encoder.encode_windows(tokens, None if plain else weighed)


def _weights(window: Sequence[tuple[int, float]]) -> list[float]:
    """One weight for each of the 77 places; marks and padding count once."""
    padding = CHUNK_TOKENS - len(window)
    return [1.0, *(weight for _, weight in window), *[1.0] * (padding + 1)]
