"""The webui's prompt syntax; expected values from its manual and from its documented examples."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from trainer.models.families import SD1
from trainer.models.prompts import BREAK, WeightedEncoder, parse, token_count, truncated
from trainer.models.text import PromptEncoder, TextEncoder
from trainer.models.tokenizer import clip_tokenizer


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("", []),
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("((x))", [("x", 1.21)]),
        ("[x]", [("x", 1 / 1.1)]),
        ("(x:1.5)", [("x", 1.5)]),
        ("a) b:2", [("a) b:2", 1)]),
        ("a BREAK b", [("a", 1), (BREAK, -1), ("b", 1)]),
        (
            # the example in the webui's documentation of its parser
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
    ],
)
def test_parse(prompt: str, pieces: list[tuple[str, float]]) -> None:
    found = parse(prompt)
    assert [piece.text for piece in found] == [text for text, _ in pieces]
    assert [piece.weight for piece in found] == pytest.approx([weight for _, weight in pieces])


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    torch.manual_seed(0)
    model = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            eos_token_id=49407,
            bos_token_id=49406,
        )
    )
    torch.nn.init.normal_(model.text_model.final_layer_norm.bias, 0.3)
    model.eval().requires_grad_(False)
    return PromptEncoder(clip_tokenizer(), [TextEncoder(model, SD1.text_encoders[0])])


def test_plain_prompts_are_encoded_as_without_the_syntax(encoder: PromptEncoder) -> None:
    prompts = ["a red circle", "", " ".join(["word"] * 80)]
    plain = encoder.encode(prompts).context
    torch.testing.assert_close(WeightedEncoder(encoder)(prompts).context, plain, rtol=0, atol=0)


def test_emphasis_multiplies_and_restores_the_mean(encoder: PromptEncoder) -> None:
    plain = encoder.encode(["a red circle"]).context[0]
    weighted = WeightedEncoder(encoder)(["a (red:1.5) circle"]).context[0]
    factors = torch.ones(77, 1)
    factors[2] = 1.5  # mark, a, red
    expected = plain * factors
    expected *= plain.mean() / expected.mean()
    torch.testing.assert_close(weighted, expected)


def test_break_begins_a_window(encoder: PromptEncoder) -> None:
    two = WeightedEncoder(encoder)(["a red BREAK circle"]).context[0]
    first, second = encoder.encode(["a red", "circle"]).context
    torch.testing.assert_close(two, torch.cat([first, second]))


def test_tokens_are_counted_without_brackets_and_words_cut_at_the_end(
    encoder: PromptEncoder,
) -> None:
    assert token_count("a (red:1.5) BREAK circle", encoder.tokens) == 3
    assert truncated("a red circle", encoder.tokens, 2) == "a red"
    assert truncated("a red circle", encoder.tokens, 3) == "a red circle"
