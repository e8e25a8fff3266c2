"""Prompts to the states that the UNet is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from transformers import CLIPTextModel, CLIPTokenizer

CHUNK_TOKENS = 75
"""Tokens of a prompt in one window of the text encoder, between its two marks."""


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told beside the noisy latents.

    Attributes:
        context: [n, 77 * chunks, width], the text encoder's states.
    """

    context: torch.Tensor

    def __len__(self) -> int:
        return len(self.context)

    def repeated(self, count: int) -> Conditioning:
        """`count` copies of a single prompt's conditioning."""
        return Conditioning(self.context.expand(count, -1, -1))


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """Several batches' conditionings as that of one; their shapes must agree but for n."""
    return Conditioning(torch.cat([part.context for part in parts]))


class PromptEncoder:
    """Encodes prompts as the webui does: windows of 75 tokens, encoded alone, concatenated.

    Source: the behaviour of the webui's prompt conditioning (facts of its interface): every window
    is its start mark, up to 75 tokens, its end mark and padding with the end mark.
    """

    def __init__(
        self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, clip_skip: int = 1
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.clip_skip = clip_skip

    def token_count(self, prompt: str) -> int:
        """Tokens of the prompt, without marks."""
        return len(self.tokens(prompt))

    def chunks(self, prompt: str) -> list[list[int]]:
        """The prompt's windows as token ids, each 77 long; an empty prompt has one."""
        tokens = self.tokens(prompt)
        parts = [tokens[i : i + CHUNK_TOKENS] for i in range(0, len(tokens), CHUNK_TOKENS)]
        return [self.window(part) for part in parts or [[]]]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """States of `prompts`; shorter ones are filled up with empty windows.

        Returns:
            context [len(prompts), 77 * most chunks, width] in the encoder's dtype; it carries a
            graph when the encoder's adapters are trained and gradients are on.
        """
        windows = [self.chunks(prompt) for prompt in prompts]
        most = max(len(w) for w in windows)
        empty = self.window([])
        ids = torch.tensor(
            [window for w in windows for window in w + [empty] * (most - len(w))],
            device=self.text_encoder.device,
        )
        states = self.states(ids)
        return Conditioning(states.reshape(len(prompts), -1, states.shape[-1]))

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """States [n, 77, width] of windows, int64 [n, 77], by the CLIP skip that was set."""
        if self.clip_skip == 1:
            return self.text_encoder(ids).last_hidden_state  # type: ignore[no-any-return]
        states = self.text_encoder(ids, output_hidden_states=True).hidden_states[-self.clip_skip]
        return self.text_encoder.text_model.final_layer_norm(states)  # type: ignore[no-any-return]

    def tokens(self, prompt: str) -> list[int]:
        """The prompt's token ids, without marks."""
        return tokenize(self.tokenizer, prompt)

    def window(self, tokens: list[int]) -> list[int]:
        """At most 75 token ids between their marks, padded to 77."""
        end = self.tokenizer.eos_token_id
        padding = [end] * (CHUNK_TOKENS - len(tokens))
        return [self.tokenizer.bos_token_id, *tokens, end, *padding]


def tokenize(tokenizer: CLIPTokenizer, prompt: str) -> list[int]:
    """The prompt's token ids, without marks, however many."""
    ids: list[int] = tokenizer(
        prompt, add_special_tokens=False, truncation=False, verbose=False
    ).input_ids
    return ids


class ConditioningCache:
    """Conditionings of prompts that are used again and again by a frozen text encoder."""

    def __init__(
        self,
        encode: Callable[[list[str]], Conditioning],
        batch_size: int = 16,
        *,
        windows: Callable[[str], int] = lambda prompt: 1,
    ) -> None:
        """Args: windows: of a prompt; only equally long ones are encoded together, because an
        encoder fills up the shorter ones of a batch, and a prompt would keep what it was given.
        """
        self._encode = encode
        self._windows = windows
        self._batch_size = batch_size
        self._contexts: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def prepare(self, prompts: Iterable[str]) -> None:
        """Encodes what is not known yet, and the empty prompt that shorter ones are filled with."""
        new = [p for p in dict.fromkeys(("", *prompts)) if p not in self._contexts]
        for _, alike in groupby(sorted(new, key=self._windows), self._windows):
            prompts = list(alike)
            for first in range(0, len(prompts), self._batch_size):
                part = prompts[first : first + self._batch_size]
                for prompt, context in zip(part, self._encode(part).context, strict=True):
                    self._contexts[prompt] = context

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The prompts' conditioning; shorter ones are filled up with empty windows."""
        self.prepare(prompts)
        contexts = [self._contexts[prompt] for prompt in prompts]
        longest = max(len(context) for context in contexts)
        return Conditioning(torch.stack([self._filled(c, longest) for c in contexts]))

    def _filled(self, context: torch.Tensor, tokens: int) -> torch.Tensor:
        missing = tokens - len(context)
        if missing == 0:
            return context
        window = self._contexts[""][: CHUNK_TOKENS + 2]
        return torch.cat([context, window.repeat(missing // len(window), 1)])
