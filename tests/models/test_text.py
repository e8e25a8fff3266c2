"""Tokenizer and prompt windows; token ids are CLIP's published ones."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextModel

from tests.modules import END, START, tiny_modules
from trainer.data.views import Framing
from trainer.models.families import SD1, SD2, SDXL
from trainer.models.text import Conditioning, ConditioningCache, PromptEncoder, TextEncoder
from trainer.models.tokenizer import clip_tokenizer, write_vocabulary


@pytest.fixture(scope="module")
def encoder():
    return encoder_of(tiny_modules(seed=1)[2][0])


def encoder_of(model: CLIPTextModel, clip_skip: int = 1) -> PromptEncoder:
    return PromptEncoder(clip_tokenizer(), [TextEncoder(model, SD1.text_encoders[0], clip_skip)])


def ids(encoder: PromptEncoder, prompt: str) -> list[list[int]]:
    (one,) = encoder.encoders
    return [one.ids(window, encoder.tokenizer) for window in encoder.windows(prompt)]


def test_vocabulary_is_clips(tmp_path):
    tokenizer = clip_tokenizer()
    assert len(tokenizer) == 49408
    # "a photo of a cat", as OpenAI's CLIP tokenizes it
    assert tokenizer("a photo of a cat").input_ids == [START, 320, 1125, 539, 320, 2368, END]
    write_vocabulary(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"vocab.json", "merges.txt", "tokenizer_config.json"}


def test_short_prompt_is_one_padded_window(encoder):
    (window,) = ids(encoder, "a cat")
    assert window == [START, 320, 2368, END] + [END] * 73


def test_empty_prompt_is_one_empty_window(encoder):
    assert ids(encoder, "") == [[START] + [END] * 76]


def test_openclip_pads_with_zero(encoder):
    """Source: open_clip's tokenizer: a window begins as zeros, which are "!"."""
    row = SD2.text_encoders[0]
    padded = TextEncoder(encoder.encoders[0].model, row).ids([320, 2368], encoder.tokenizer)
    assert padded == [START, 320, 2368, END] + [0] * 73


@pytest.mark.parametrize(("words", "windows"), [(75, 1), (76, 2), (150, 2), (151, 3)])
def test_long_prompts_take_whole_windows(encoder, words, windows):
    prompt = " ".join(["cat"] * words)
    assert encoder.token_count(prompt) == words
    chunks = ids(encoder, prompt)
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
    text_encoder = tiny_modules(seed=1)[2][0]
    windows = torch.tensor(ids(encoder_of(text_encoder), "a cat"))
    with torch.no_grad():
        hidden = text_encoder(windows, output_hidden_states=True).hidden_states
        expected = text_encoder.text_model.final_layer_norm(hidden[-2])
        found = encoder_of(text_encoder, 2).encode(["a cat"]).context
        last = encoder_of(text_encoder, 1).encode(["a cat"]).context
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


@pytest.fixture(scope="module")
def sdxl_encoder():
    models = tiny_modules(seed=1, family="sdxl")[2]
    rows = SDXL.text_encoders
    pairs = zip(models, rows, strict=True)
    return PromptEncoder(clip_tokenizer(), [TextEncoder(*pair) for pair in pairs])


@torch.no_grad()
def test_several_encoders_lie_side_by_side_and_the_first_window_is_pooled(sdxl_encoder):
    """Source: the webui's conditioning of SDXL: hstack of the windows, pooled of the first."""
    first, second = " ".join(["cat"] * 75), " ".join(["dog"] * 5)
    long = sdxl_encoder.encode([f"{first} {second}", "a"])
    parts = sdxl_encoder.encode([first, second, "a", ""])
    assert long.context.shape == (2, 154, 64 + 128)
    assert long.pooled.shape == (2, 96)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(long.context, parts.context.reshape(2, 154, -1), **close)
    torch.testing.assert_close(long.pooled, parts.pooled[[0, 2]], **close)
    for encoder, states in zip(
        sdxl_encoder.encoders, parts.context[2:3].split([64, 128], -1), strict=True
    ):
        window = encoder.ids(sdxl_encoder.tokens("a"), sdxl_encoder.tokenizer)
        torch.testing.assert_close(encoder(torch.tensor([window]))[0], states, **close)


def test_cache_holds_the_pooled_output_too(sdxl_encoder):
    prompts = ["a cat", " ".join(["cat"] * 80)]
    cache = ConditioningCache(sdxl_encoder.encode)
    with torch.no_grad():
        expected = sdxl_encoder.encode(prompts)
    found = cache(prompts)
    torch.testing.assert_close(found.context, expected.context, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.pooled, expected.pooled, atol=1e-5, rtol=0)


def test_sizes_are_told_in_pixels_height_before_width():
    """Source: Podell et al. 2023, section 2.2; the order of the published sd_xl_base config."""
    told = Conditioning(torch.zeros(2, 77, 8), torch.zeros(2, 4))
    assert told.sizes_px((12, 8)).tolist() == [[96, 64, 0, 0, 96, 64]] * 2
    framings = (
        Framing((600, 900), (0, 16), (64, 64)),
        Framing((30, 20), (8, 0), (64, 64)),
    )
    assert told.framed(framings).sizes_px((8, 8)).tolist() == [
        [600, 900, 0, 16, 64, 64],
        [30, 20, 8, 0, 64, 64],
    ]
    assert told.framed(framings)[1:].sizes_px((8, 8)).tolist() == [[30, 20, 8, 0, 64, 64]]
