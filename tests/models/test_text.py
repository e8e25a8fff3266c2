"""Tokenizer and prompt windows; token ids are CLIP's published ones."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import tiny_modules
from trainer.models.text import Conditioning, ConditioningCache, PromptEncoder
from trainer.models.tokenizer import clip_tokenizer, write_vocabulary

START, END = 49406, 49407


@pytest.fixture(scope="module")
def encoder():
    return PromptEncoder(clip_tokenizer(), tiny_modules(seed=1)[2])


def test_vocabulary_is_clips(tmp_path):
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    # "a photo of a cat", as OpenAI's CLIP tokenizes it
    assert tokenizer("a photo of a cat").input_ids == [START, 320, 1125, 539, 320, 2368, END]
    write_vocabulary(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"vocab.json", "merges.txt", "tokenizer_config.json"}


def test_short_prompt_is_one_padded_window(encoder):
    (window,) = encoder.chunks("a cat")
    assert window == [START, 320, 2368, END] + [END] * 73


def test_empty_prompt_is_one_empty_window(encoder):
    assert encoder.chunks("") == [[START] + [END] * 76]


@pytest.mark.parametrize(("words", "windows"), [(75, 1), (76, 2), (150, 2), (151, 3)])
def test_long_prompts_take_whole_windows(encoder, words, windows):
    prompt = " ".join(["cat"] * words)
    assert encoder.token_count(prompt) == words
    chunks = encoder.chunks(prompt)
    assert [len(c) for c in chunks] == [77] * windows
    assert sum(c.count(2368) for c in chunks) == words


def test_each_window_is_encoded_alone(encoder):
    long = " ".join(["cat"] * 75 + ["dog"] * 5)
    with torch.no_grad():
        both = encoder.encode([long, "a"]).context
        first = encoder.encode([" ".join(["cat"] * 75)]).context
        second = encoder.encode([" ".join(["dog"] * 5)]).context
        empty = encoder.encode([""]).context
        short = encoder.encode(["a"]).context
    assert both.shape == (2, 154, 64)
    torch.testing.assert_close(both[0], torch.cat([first[0], second[0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(both[1], torch.cat([short[0], empty[0]]), atol=1e-6, rtol=0)


def test_clip_skip_takes_an_earlier_layer_and_the_final_norm():
    text_encoder = tiny_modules(seed=1)[2]
    ids = torch.tensor([PromptEncoder(clip_tokenizer(), text_encoder).chunks("a cat")[0]])
    with torch.no_grad():
        hidden = text_encoder(ids, output_hidden_states=True).hidden_states
        expected = text_encoder.text_model.final_layer_norm(hidden[-2])
        found = PromptEncoder(clip_tokenizer(), text_encoder, 2).encode(["a cat"]).context
        last = PromptEncoder(clip_tokenizer(), text_encoder, 1).encode(["a cat"]).context
    assert torch.equal(found, expected)
    assert not torch.allclose(found, last)


def test_cache_gives_what_the_encoder_gives_and_encodes_once(encoder):
    calls: list[str] = []

    def encode(prompts: list[str]) -> Conditioning:
        calls.extend(prompts)
        return encoder.encode(prompts)

    cache = ConditioningCache(encode, batch_size=2)
    prompts = ["a cat", " ".join(["cat"] * 80), "a cat", "a dog"]
    with torch.no_grad():
        expected = encoder.encode(prompts).context
    for _ in range(2):
        torch.testing.assert_close(cache(prompts).context, expected, atol=1e-6, rtol=0)
    assert sorted(calls) == sorted({"", *prompts})


def test_a_cached_prompt_is_as_long_as_it_is_whatever_it_was_encoded_with() -> None:
    def encode(prompts: list[str]) -> Conditioning:
        most = max(len(prompt.split()) for prompt in prompts)  # a word is a window here
        return Conditioning(torch.zeros(len(prompts), 77 * most, 2))

    cache = ConditioningCache(encode, windows=lambda prompt: len(prompt.split()) or 1)
    cache.prepare(["a", "b c", "d", "e f g"])
    assert [cache([one]).context.shape[1] // 77 for one in ("a", "b c", "d", "e f g")] == [
        1,
        2,
        1,
        3,
    ]
