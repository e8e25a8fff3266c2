"""How captions vary: what stays, what moves, what is left out, and that it can be repeated."""

from __future__ import annotations

from collections import Counter

import pytest

from trainer.data.variants import CaptionVariants
from trainer.settings.groups import CaptionSettings


def variants(trigger: str = "", seed: int = 0, **settings: object) -> CaptionVariants:
    return CaptionVariants(CaptionSettings(**settings), trigger, seed)


def drawn(caption: str, times: int = 200, trigger: str = "", **settings: object) -> list[str]:
    found = variants(trigger, **settings)
    return [found.at([caption], 0, number)[0] for number in range(times)]


@pytest.mark.parametrize(
    ("caption", "trigger", "settings", "expected"),
    [
        ("a cat,on a mat", "", {}, "a cat,on a mat"),
        ("ohwx, a cat", "ohwx", {"caption_prefix": "photo of"}, "ohwx, photo of a cat"),
        ("a cat", "", {"caption_suffix": "in oil"}, "a cat in oil"),
        ("a cat", "", {"caption_suffix": ", oil painting"}, "a cat, oil painting"),
        ("ohwx", "ohwx", {"caption_suffix": "in oil"}, "ohwx, in oil"),
        ("a, b ||| c", "", {"keep_tokens_separator": "|||"}, "a, b, c"),
        ("a ;; b, c", "", {"secondary_separator": " ;;"}, "a, b, c"),
    ],
)
def test_what_is_put_around_a_caption(caption, trigger, settings, expected) -> None:
    found = variants(trigger, **settings)
    assert not found.varies
    assert found.at([caption], 3, 4) == (expected,)


def test_a_bare_caption_gets_nothing_around_it() -> None:
    around = {"caption_prefix": "photo of", "caption_suffix": "in oil"}
    for settings in (around, {**around, "shuffle_tags": True}):
        found = variants("me", **settings).at(["me, a", "b"], 0, 0, bare=[False, True])
        assert found == ("me, photo of a in oil", "b")


def test_tags_are_mixed_in_every_order_and_none_is_lost() -> None:
    found = Counter(drawn("a, b, c", 600, shuffle_tags=True))
    assert len(found) == 6
    assert min(found.values()) > 60  # 100 each, were the orders equally often
    assert {frozenset(one.split(", ")) for one in found} == {frozenset("abc")}


def test_the_trigger_and_the_kept_tags_stay_in_front() -> None:
    found = set(drawn("ohwx, hat, a, b, c", 300, "ohwx, hat", shuffle_tags=True, keep_tokens=1))
    assert found == {"ohwx, hat, a, b, c", "ohwx, hat, a, c, b"}


def test_a_mark_keeps_both_ends() -> None:
    found = set(drawn("x, y ||| a, b ||| z", shuffle_tags=True, keep_tokens_separator="|||"))
    assert found == {"x, y, a, b, z", "x, y, b, a, z"}


def test_a_second_mark_holds_tags_together() -> None:
    found = set(drawn("a;;b, c", shuffle_tags=True, secondary_separator=";;"))
    assert found == {"a,b, c", "c, a,b"}


def test_tags_are_dropped_at_their_rate_but_kept_ones_never() -> None:
    found = drawn("me, k, a, b", 2000, "me", tag_dropout_rate=0.25, keep_tokens=1)
    assert all(one.startswith("me, k") for one in found)
    counts = Counter(tag for one in found for tag in one.split(", "))
    assert counts["a"] / 2000 == pytest.approx(0.75, abs=0.04)
    assert counts["b"] / 2000 == pytest.approx(0.75, abs=0.04)


def test_whole_captions_are_dropped_at_their_rate_or_by_epochs() -> None:
    found = drawn("me, a", 2000, "me", caption_dropout_rate=0.1)
    assert set(found) == {"", "me, a"}
    assert found.count("") / 2000 == pytest.approx(0.1, abs=0.03)
    every = variants(caption_dropout_every_epochs=3)
    # sd-scripts counts epochs from 1 and drops where the remainder is 0
    assert [every.at(["a"], epoch, 0)[0] for epoch in range(6)] == ["a", "a", "", "a", "a", ""]


def test_wildcards_draw_a_line_and_words() -> None:
    caption = "me, a {red|blue {dark|pale} } hat\n{{plain}}"
    found = set(drawn(caption, 300, "me", wildcards=True))
    assert found == {"me, a red hat", "me, a blue dark hat", "me, a blue pale hat", "me, {plain}"}
    assert variants("me").at(["me, {a|b}"], 0, 0) == ("me, {a|b}",), "only on request"


def test_readings_hold_every_line_and_word_without_the_marks() -> None:
    marks = {"keep_tokens_separator": "|||", "secondary_separator": ";;", "wildcards": True}
    caption = "ohwx, 1girl ||| {red|blue|old} hat;;scarf\na {{girl}}"
    assert variants("ohwx", **marks).readings(caption) == (
        "ohwx, 1girl, red hat,scarf",
        "ohwx, 1girl, blue hat,scarf",
        "ohwx, 1girl, old hat,scarf",
        "ohwx, a {girl}",
    )
    around = {"caption_prefix": "photo of", "shuffle_tags": True, "caption_dropout_rate": 1.0}
    for bare, expected in ((False, "ohwx, photo of {a|b}, c"), (True, "ohwx, {a|b}, c")):
        found = variants("ohwx", **around).readings("ohwx, {a|b}, c", bare=bare)
        assert found == (expected,)


def test_what_is_drawn_follows_from_seed_and_place() -> None:
    settings = {"shuffle_tags": True, "tag_dropout_rate": 0.2, "caption_dropout_rate": 0.2}
    captions = ["a, b, c, d, e"] * 4

    def course(seed: int) -> list[tuple[str, ...]]:
        return [variants(seed=seed, **settings).at(captions, e, b) for e in (0, 1) for b in (0, 1)]

    assert course(1) == course(1)
    assert course(1) != course(2)
    assert len(set(course(1))) == 4, "each place has its own"


@pytest.mark.parametrize(
    ("caption", "most"),
    [
        (" ".join(["{a|b}"] * 3000), 4),
        ("{" + "|".join("a" * 9000) + "}", 1),
        ("a {b|c|d} {e|f}", 9),
    ],
)
def test_no_more_readings_are_made_than_words_need(caption, most):
    found = CaptionVariants(CaptionSettings(wildcards=True)).readings(caption)
    assert len(found) <= most
    words = set(caption.replace("{", "|").replace("}", "|").replace(" ", "").split("|")) - {""}
    assert {word for text in found for word in text.split()} == words
