"""Prompts to what the UNet is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple, Protocol, TypeVar

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from ..data.transfer import to_device
from ..data.views import Framing
from .families import TextEncoderRow

Item = TypeVar("Item")

CHUNK_TOKENS = 75
"""Tokens of a prompt in one window of the text encoder, between its two marks."""
Window = Sequence[int]
"""At most `CHUNK_TOKENS` token ids, without marks."""
Reshape = Callable[[torch.Tensor], torch.Tensor]
"""States [windows, 77, width] to states of the same shape."""


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told beside the noisy latents.

    Attributes:
        context: [n, 77 * chunks, width], the text encoders' states side by side.
        pooled: [n, width], the whole prompt as one vector; None in families without it.
        framings: how each picture was cut; None: the latents are whole pictures.
    """

    context: torch.Tensor
    pooled: torch.Tensor | None = None
    framings: tuple[Framing, ...] | None = None

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, part: slice) -> Conditioning:
        """Some neighbouring prompts."""
        pooled = None if self.pooled is None else self.pooled[part]
        framings = None if self.framings is None else self.framings[part]
        return Conditioning(self.context[part], pooled, framings)

    def repeated(self, count: int) -> Conditioning:
        """`count` copies of a single prompt's conditioning."""
        pooled = None if self.pooled is None else self.pooled.expand(count, -1)
        return Conditioning(self.context.expand(count, -1, -1), pooled)

    def framed(self, framings: Sequence[Framing] | None) -> Conditioning:
        """The same prompts for pictures that were cut so."""
        return replace(self, framings=None if framings is None else tuple(framings))

    def sizes_px(self, latents_size: tuple[int, int], cell_px: int = 8) -> torch.Tensor:
        """What a family with sizes is told: float32 [n, 6], beside the context.

        Height and width of the original, top and left of the cut, height and width of the sample.

        Args:
            latents_size: (height, width) of the latents; tells the sizes where no framing does.
            cell_px: pixels along one side of a latent cell.

        Source: Podell et al. 2023, "SDXL", section 2.2.
        """
        height, width = (side * cell_px for side in latents_size)
        whole = Framing((height, width), (0, 0), (height, width))
        framings = self.framings or (whole,) * len(self)
        sizes = [[side for pair in framing for side in pair] for framing in framings]
        return to_device(torch.tensor(sizes, dtype=torch.float32), self.context.device)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A textual inversion: vectors that stand in a prompt in the place of a word's tokens."""

    name: tuple[int, ...]
    """The tokens of the word, without marks."""
    vectors: tuple[torch.Tensor, ...]
    """[n, width] for each text encoder, in the family's order."""


class Insert(NamedTuple):
    """One vector of an embedding, and where it stands."""

    window: int
    place: int
    """From 0, which is the window's start mark."""
    embedding: Embedding
    row: int


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder with the way in which its family uses it."""

    model: CLIPTextModel
    row: TextEncoderRow
    clip_skip: int = 1
    """Counts where the row leaves the layer open."""

    def ids(self, window: Window, tokenizer: CLIPTokenizer) -> list[int]:
        """The window between its marks, padded to 77."""
        end = tokenizer.eos_token_id
        pad = end if self.row.pad_token is None else self.row.pad_token
        padding = [pad] * (CHUNK_TOKENS - len(window))
        return [tokenizer.bos_token_id, *window, end, *padding]

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """States [n, 77, width] and pooled output [n, width], if any, of int64 [n, 77]."""
        layer = self.clip_skip if self.row.layer is None else self.row.layer
        if layer == 1 and self.row.final_norm and not self.row.pooled:
            return self.model(ids).last_hidden_state, None
        output = self.model(ids, output_hidden_states=True)
        states = output.hidden_states[-layer]
        if self.row.final_norm:
            states = self.model.text_model.final_layer_norm(states)
        return states, output.text_embeds if self.row.pooled else None


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """Several batches' conditionings as that of one; their shapes must agree but for n."""
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Conditioning(
        torch.cat([part.context for part in parts]), torch.cat(pooled) if pooled else None
    )


@contextmanager
def inserted(
    model: CLIPTextModel, vectors: Sequence[tuple[int, int, torch.Tensor]]
) -> Iterator[None]:
    """Vectors (window, place, [width]) in the place of tokens, for the length of a `with` block."""

    def put(_: object, __: object, embedded: torch.Tensor) -> torch.Tensor:
        embedded = embedded.clone()
        for window, place, vector in vectors:
            embedded[window, place] = vector.to(embedded)
        return embedded

    if not vectors:
        yield
        return
    handle = model.text_model.embeddings.token_embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


class PromptEncoder:
    """Encodes prompts as the webui does: windows of 75 tokens, encoded alone, concatenated.

    Source: the behaviour of the webui's prompt conditioning (facts of its interface): every window
    is its start mark, up to 75 tokens, its end mark and padding; several encoders' states lie side
    by side; the pooled output is that of the first window.
    """

    def __init__(self, tokenizer: CLIPTokenizer, encoders: Sequence[TextEncoder]) -> None:
        self.tokenizer = tokenizer
        self.encoders = tuple(encoders)

    def token_count(self, prompt: str) -> int:
        """Tokens of the prompt, without marks."""
        return len(self.tokens(prompt))

    def windows(self, prompt: str) -> list[Window]:
        """The prompt's windows; an empty prompt has one, which is empty."""
        tokens = self.tokens(prompt)
        return [tokens[i : i + CHUNK_TOKENS] for i in range(0, len(tokens), CHUNK_TOKENS)] or [[]]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """States of `prompts`; shorter ones are filled up with empty windows.

        Returns:
            context [len(prompts), 77 * most chunks, width] in the encoders' dtype; it carries a
            graph when an encoder's adapters are trained and gradients are on.
        """
        return self.encode_windows([self.windows(prompt) for prompt in prompts])

    def encode_windows(
        self,
        windows: Sequence[Sequence[Window]],
        reshape: Reshape | None = None,
        inserts: Sequence[Insert] = (),
    ) -> Conditioning:
        """States of prompts that are given as windows; as `encode`.

        Args:
            reshape: is applied to each encoder's states; gets the windows of all prompts in order.
            inserts: embeddings among them; they count all prompts' windows, filled up.
        """
        filled = filled_up(windows)
        flat = [window for one in filled for window in one]
        parts: list[torch.Tensor] = []
        pooled: torch.Tensor | None = None
        for number, encoder in enumerate(self.encoders):
            ids = [encoder.ids(window, self.tokenizer) for window in flat]
            vectors = [(w, p, one.vectors[number][row]) for w, p, one, row in inserts]
            with inserted(encoder.model, vectors):
                states, whole = encoder(to_device(torch.tensor(ids), encoder.model.device))
            parts.append(states if reshape is None else reshape(states))
            if whole is not None:
                pooled = whole[:: len(filled[0])]
        context = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return Conditioning(context.reshape(len(windows), -1, context.shape[-1]), pooled)

    def tokens(self, prompt: str) -> list[int]:
        """The prompt's token ids, without marks."""
        return tokenize(self.tokenizer, prompt)


def filled_up(
    prompts: Sequence[Sequence[Sequence[Item]]],
) -> list[list[Sequence[Item]]]:
    """Every prompt's windows, with empty ones added until all prompts have equally many."""
    most = max(len(windows) for windows in prompts)
    return [[*windows, *[[]] * (most - len(windows))] for windows in prompts]


def tokenize(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    """The prompt's token ids, without marks, however many."""
    ids: list[int] = tokenizer(
        prompt, add_special_tokens=False, truncation=False, verbose=False
    ).input_ids
    return ids


class KnownConditionings(Protocol):
    """Where conditionings of single prompts are kept."""

    def __contains__(self, prompt: object) -> bool: ...
    def __setitem__(self, prompt: str, one: Conditioning) -> None: ...
    def __getitem__(self, prompt: str) -> Conditioning:
        """Raises: KeyError: it is not there, or not any more."""

    def finish(self) -> None:
        """Nothing more is put for now."""


class ConditioningsInMemory(dict[str, Conditioning]):
    """On the device on which they were encoded."""

    def finish(self) -> None:
        """See `KnownConditionings.finish`."""


class ConditioningCache:
    """Conditionings of prompts that are used again and again by frozen text encoders."""

    def __init__(
        self,
        encode: Callable[[list[str]], Conditioning],
        batch_size: int = 16,
        *,
        windows: Callable[[str], int] = lambda prompt: 1,
        known: KnownConditionings | None = None,
    ) -> None:
        """Makes a cache that encodes nothing yet.

        Args:
            encode: prompts to their conditioning.
            batch_size: how many are encoded together.
            windows: of a prompt; only equally long ones are encoded together, because an encoder
                fills up the shorter ones of a batch, and a prompt would keep what it was given.
            known: where they are kept; what lies there already is not encoded.  None: in memory.
        """
        self._encode = encode
        self._windows = windows
        self._batch_size = batch_size
        self._known: KnownConditionings = ConditioningsInMemory() if known is None else known

    def prepare(self, prompts: Iterable[str]) -> None:
        """Encodes what is not known yet, and the empty prompt that shorter ones are filled with."""
        self._add(prompts)
        self._known.finish()

    @torch.no_grad()
    def _add(self, prompts: Iterable[str]) -> None:
        new = [p for p in dict.fromkeys(("", *prompts)) if p not in self._known]
        lengths = {prompt: self._windows(prompt) for prompt in new}
        for _, alike in groupby(sorted(new, key=lengths.__getitem__), lengths.__getitem__):
            prompts = list(alike)
            for first in range(0, len(prompts), self._batch_size):
                part = prompts[first : first + self._batch_size]
                encoded = self._encode(part)
                for number, prompt in enumerate(part):
                    self._known[prompt] = encoded[number : number + 1]

    def _one(self, prompt: str) -> Conditioning:
        """A prompt's conditioning; encoded once more where it is not kept any more."""
        with suppress(KeyError):
            return self._known[prompt]
        self._add([prompt])
        return self._known[prompt]

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The prompts' conditioning; shorter ones are filled up with empty windows."""
        self.prepare(prompts)
        rows = [self._one(prompt) for prompt in prompts]
        longest = max(row.context.shape[1] for row in rows)
        pooled = [row.pooled for row in rows if row.pooled is not None]
        return Conditioning(
            torch.cat([self._filled(row.context, longest) for row in rows]),
            torch.cat(pooled) if pooled else None,
        )

    def _filled(self, context: torch.Tensor, tokens: int) -> torch.Tensor:
        missing = tokens - context.shape[1]
        if missing == 0:
            return context
        window = self._one("").context[:, : CHUNK_TOKENS + 2]
        return torch.cat([context, window.repeat(1, missing // window.shape[1], 1)], 1)


class EncodesAhead:
    """Encodes captions that vary, those of many batches together, and forgets the ones before.

    Args:
        new_cache: makes an empty cache.
        upcoming: the captions that come next.
        always: prompts that are asked for again and again.
        encoded: is called when the encoders are not needed for a while.
    """

    def __init__(
        self,
        new_cache: Callable[[], ConditioningCache],
        upcoming: Callable[[], Sequence[str]],
        always: Sequence[str] = (),
        encoded: Callable[[], None] = lambda: None,
    ) -> None:
        self._new_cache = new_cache
        self._encoded = encoded
        self._upcoming = upcoming
        self._always = tuple(always)
        self._known: frozenset[str] = frozenset()
        self._cache = new_cache()

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The prompts' conditioning; shorter ones are filled up with empty windows."""
        if not self._known.issuperset(prompts):
            wanted = (*self._always, *prompts, *self._upcoming())
            self._cache, self._known = self._new_cache(), frozenset(wanted)
            self._cache.prepare(wanted)
            self._encoded()
        return self._cache(prompts)
