"""The webui's prompt syntax; expected values from its manual and from its documented examples."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from trainer.models.families import SD1
from trainer.models.prompts import (
    BREAK,
    IGNORE,
    NO_NORM,
    NONE,
    PromptStyle,
    WeightedEncoder,
    escaped,
    parse,
    split,
    token_count,
    truncated,
)
from trainer.models.text import Embedding, PromptEncoder, TextEncoder
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
        (r"a \b \\ c", [(r"a b \ c", 1)]),
        ("a BREAK b", [("a", 1), (BREAK, -1), ("b", 1)]),
        ("(a BREAK b)", [("a", 1.1), ("BREAK", -1.1), ("b", 1.1)]),
        ("[a BREAK:2)", [("a", 1 / 1.1), ("BREAK", -1 / 1.1), (":2)", 1 / 1.1)]),
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


@pytest.mark.parametrize(
    "text",
    ["a (genshin), [x]", r"a \(b\) :\ c", "(a:1.5)", ":)", "[[a:2]", r"\\", "a BREAK b", ""],
)
def test_an_escaped_text_is_read_as_it_is(encoder: PromptEncoder, text: str) -> None:
    for style in (PromptStyle(), PromptStyle(IGNORE), PromptStyle(NONE)):
        (window,) = split(escaped(text, style), encoder.tokens, style)
        assert [item.token for item in window] == encoder.tokens(text)
        assert all(item.weight == 1 for item in window)


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


def test_break_inside_brackets_is_a_word(encoder: PromptEncoder) -> None:
    (window,) = split("(a BREAK b)", encoder.tokens)
    assert [item.token for item in window] == encoder.tokens("a break b")
    assert [item.weight for item in window] == pytest.approx([1.1, -1.1, 1.1])


@pytest.mark.parametrize(
    ("prompt", "sizes"),
    [("a BREAK", [1]), ("BREAK a", [0, 1]), ("a BREAK BREAK b", [1, 0, 1]), ("BREAK", [0])],
)
def test_a_break_at_the_end_begins_no_window(
    encoder: PromptEncoder, prompt: str, sizes: list[int]
) -> None:
    assert [len(window) for window in split(prompt, encoder.tokens)] == sizes


def test_tokens_are_counted_without_brackets_and_words_cut_at_the_end(
    encoder: PromptEncoder,
) -> None:
    assert token_count("a (red:1.5) BREAK circle", encoder.tokens) == 3
    assert truncated("a red circle", encoder.tokens, 2) == "a red"
    assert truncated("a red circle", encoder.tokens, 3) == "a red circle"


def styled(encoder: PromptEncoder, prompt: str, **style: object) -> torch.Tensor:
    return WeightedEncoder(encoder, PromptStyle(**style))([prompt]).context[0]  # type: ignore[arg-type]


def test_without_norm_the_mean_is_not_restored(encoder: PromptEncoder) -> None:
    plain = encoder.encode(["a red circle"]).context[0]
    factors = torch.ones(77, 1)
    factors[2] = 1.5
    torch.testing.assert_close(
        styled(encoder, "a (red:1.5) circle", emphasis=NO_NORM), plain * factors
    )


def test_emphasis_that_is_ignored_or_text(encoder: PromptEncoder) -> None:
    plain, text = encoder.encode(["a red circle", "a (red:1.5) circle"]).context
    assert torch.equal(styled(encoder, "a (red:1.5) circle", emphasis=IGNORE), plain)
    assert torch.equal(styled(encoder, "a (red:1.5) circle", emphasis=NONE), text)


def sizes(encoder: PromptEncoder, prompt: str, **style: object) -> list[int]:
    comma = encoder.tokenizer.convert_tokens_to_ids(",</w>")
    found = PromptStyle(**style)  # type: ignore[arg-type]
    return [len(window) for window in split(prompt, encoder.tokens, found, comma)]


@pytest.mark.parametrize(
    ("before", "after", "reach", "wanted"),
    [
        # the webui's setting "Prompt word wrap length limit": 20 tokens by default
        (60, 20, 20, [61, 20]),
        (60, 20, 10, [75, 6]),
        (60, 20, 0, [75, 6]),
        (50, 30, 20, [75, 6]),
        (74, 5, 20, [75, 5]),
    ],
)
def test_a_full_window_ends_after_a_near_comma(
    encoder: PromptEncoder, before: int, after: int, reach: int, wanted: list[int]
) -> None:
    prompt = f"{' '.join(['cat'] * before)}, {' '.join(['dog'] * after)}"
    assert sizes(encoder, prompt, comma_reach=reach) == wanted


def embedding(encoder: PromptEncoder, name: str, vectors: int) -> Embedding:
    torch.manual_seed(1)
    return Embedding(tuple(encoder.tokens(name)), (torch.randn(vectors, 64),))


def test_an_embeddings_vectors_stand_for_its_name(encoder: PromptEncoder) -> None:
    mine = embedding(encoder, "mychar style", 2)
    found = styled(encoder, "a mychar style circle", embeddings=(mine,))
    model = encoder.encoders[0].model
    table = model.text_model.embeddings.token_embedding
    marks = [encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id]
    words = [marks[0], *encoder.tokens("a"), 0, 0, *encoder.tokens("circle"), marks[1]]
    ids = torch.tensor([words + [marks[1]] * (77 - len(words))])
    wanted = table(ids)
    wanted[0, 2:4] = mine.vectors[0]
    handle = table.register_forward_hook(lambda *_: wanted)
    expected = model(ids).last_hidden_state[0]
    handle.remove()
    torch.testing.assert_close(found, expected)
    assert not table._forward_hooks


def test_the_longest_name_counts_and_emphasis_reaches_every_vector(encoder: PromptEncoder) -> None:
    short, long = embedding(encoder, "my", 1), embedding(encoder, "my char", 3)
    style = PromptStyle(embeddings=(short, long))
    (window,) = split("a (my char:1.2) my", encoder.tokens, style)
    assert [(item.embedding, item.row, item.weight) for item in window[1:]] == [
        (long, 0, 1.2),
        (long, 1, 1.2),
        (long, 2, 1.2),
        (short, 0, 1.0),
    ]


def test_an_embedding_is_not_cut_by_a_window(encoder: PromptEncoder) -> None:
    mine = embedding(encoder, "mychar", 8)
    prompt = " ".join(["cat"] * 70) + " mychar"
    assert sizes(encoder, prompt, embeddings=(mine,)) == [70, 8]


def test_another_style_is_another_identity(encoder: PromptEncoder) -> None:
    mine = embedding(encoder, "mychar", 2)
    retrained = Embedding(mine.name, (mine.vectors[0] + 1,))
    renamed = Embedding((1, 2), mine.vectors)
    styles = [
        PromptStyle(),
        PromptStyle(NO_NORM),
        PromptStyle(comma_reach=3),
        *(PromptStyle(embeddings=(one,)) for one in (mine, retrained, renamed)),
    ]
    assert len({style.identity() for style in styles}) == len(styles)
    assert PromptStyle().identity() == PromptStyle().identity()
