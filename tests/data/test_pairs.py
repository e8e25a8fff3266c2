"""Pairs of pictures: found by name or suffix, refused with reasons, masked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

from trainer.data.folder import scan
from trainer.data.pairs import (
    Pair,
    PairView,
    folder_pairs,
    masked,
    named_pairs,
    pair_views,
    reverted,
)
from trainer.data.views import UNMOVED, load_pixels
from trainer.errors import BadInput
from trainer.settings.groups import DataSettings, DirectionSettings, MaskSettings, PairSettings

NO_MASK = MaskSettings()


def save(path: Path, size: tuple[int, int] = (64, 64), colour: object = "red") -> Path:
    """`size` is (width, height), as Pillow has it."""
    Image.new("RGBA" if isinstance(colour, tuple) else "RGB", size, colour).save(path)
    return path


def data(folder: Path, **values: object) -> DataSettings:
    small: dict[str, object] = {"image_size_px": (64, 64), "bucket_step_px": 0, **values}
    return DataSettings(images=str(folder), **small)  # type: ignore[arg-type]


def find(folder: Path, suffix: str = "_b", masks: MaskSettings = NO_MASK) -> list[Pair]:
    return folder_pairs(scan(data(folder)), suffix, str(folder), masks)


def test_pairs_of_a_folder_have_the_caption_of_the_picture_before(tmp_path: Path) -> None:
    for name in ("2", "10", "2_b", "10_b"):
        save(tmp_path / f"{name}.png")
    (tmp_path / "2.txt").write_text("two", "utf-8")
    found = find(tmp_path)
    assert [(p.original.path.stem, p.target.path.stem) for p in found] == [
        ("2", "2_b"),
        ("10", "10_b"),
    ]
    assert found[0].original.caption == "two"


def test_every_picture_without_its_other_half_is_named(tmp_path: Path) -> None:
    for name in ("a", "a_b", "lonely", "late_b"):
        save(tmp_path / f"{name}.png")
    with pytest.raises(BadInput) as caught:
        find(tmp_path)
    assert {Path(p.where).name for p in caught.value.problems} == {"lonely.png", "late_b.png"}


def test_a_suffix_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "a_b.png")
    with pytest.raises(BadInput, match="'_after' matches no pair") as caught:
        find(tmp_path, "_after")
    assert [problem.where for problem in caught.value.problems] == ["pair_suffix"]
    assert "a_after.png" in caught.value.problems[0].cure


def test_different_sizes_are_refused_naming_both_or_fitted(tmp_path: Path) -> None:
    save(tmp_path / "a.png", (96, 64))
    save(tmp_path / "a_b.png", (64, 80))
    with pytest.raises(BadInput) as caught:
        find(tmp_path)
    assert "80x64" in str(caught.value)
    assert "64x96" in str(caught.value)
    found = find(tmp_path, masks=MaskSettings(size_mismatch="fit"))
    (view,) = pair_views(found, data(tmp_path))
    assert view.original.frame_px == view.target.frame_px == (64, 64)


def test_named_pictures_that_are_missing_are_refused_by_field(tmp_path: Path) -> None:
    there = save(tmp_path / "a.png")
    pair = PairSettings(original_image=f"{there}\nno.png", target_image=f'neither.png\n"{there}"')
    with pytest.raises(BadInput) as caught:
        named_pairs(pair, data(tmp_path), NO_MASK, [""])
    found = [(problem.where, problem.what) for problem in caught.value.problems]
    assert found == [
        ("original_image", "there is no picture no.png"),
        ("target_image", "there is no picture neither.png"),
    ]


def test_named_pairs_are_captioned_by_trigger_and_prompt(tmp_path: Path) -> None:
    there = str(save(tmp_path / "a.png"))
    pair = PairSettings(original_image=there, target_image=there)
    pictures = data(tmp_path, trigger_word="ohwx")
    (found,) = named_pairs(pair, pictures, NO_MASK, ["a cat"])
    assert found.original.caption == "ohwx, a cat"
    (found,) = named_pairs(pair, pictures, NO_MASK, [""])
    assert found.original.caption == "ohwx"


def test_several_prompts_take_turns_over_the_placements(tmp_path: Path) -> None:
    there = str(save(tmp_path / "a.png"))
    pair = PairSettings(original_image=there, target_image=there)
    named = named_pairs(pair, data(tmp_path), NO_MASK, ["a", "b", "c"])
    for placements, captions in ((1, "abc"), (5, "abcab")):
        found = pair_views(named, data(tmp_path), placements)
        assert [one.original.image.caption for one in found] == list(captions)
        assert len({one.original.shift for one in found}) == len(captions)
    (back,) = reverted(named, DirectionSettings(revert=True))
    assert back.captions == ("a", "b", "c")


def test_reverting_exchanges_the_pictures_but_not_the_caption(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "a_b.png")
    (tmp_path / "a.txt").write_text("words", "utf-8")
    (pair,) = reverted(find(tmp_path), DirectionSettings(revert=True))
    assert (pair.original.path.stem, pair.target.path.stem) == ("a_b", "a")
    assert pair.original.caption == "words"


def test_mirrored_views_mirror_both_pictures(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "a_b.png")
    found = pair_views(find(tmp_path), data(tmp_path, mirror=True))
    assert [(v.original.mirrored, v.target.mirrored) for v in found] == [
        (False, False),
        (True, True),
    ]


def test_placements_move_both_pictures_and_their_mask_alike(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    drawn = Image.new("L", (64, 64), 0)
    drawn.paste(255, (0, 0, 32, 64))
    for path in (folder / "a.png", folder / "a_b.png", tmp_path / "mask.png"):
        drawn.save(path)
    masks = MaskSettings(mask="drawn", mask_image=str(tmp_path / "mask.png"), mask_floor=0)
    pairs = find(folder, masks=masks)
    found = pair_views(pairs, data(folder), 5)
    assert len(set(found)) == 5
    assert found[:1] == pair_views(pairs, data(folder))  # the first is the pair as it is
    assert found == pair_views(pairs, data(folder), 8)[:5]
    for one in found:
        assert one.original.shift == one.target.shift
        assert torch.equal(load_pixels(one.original), load_pixels(one.target))
        lit = functional.avg_pool2d((load_pixels(one.original)[:1] + 1) / 2, 8)
        mask = masked(one, masks)[1]
        assert mask is not None
        torch.testing.assert_close(mask, lit, rtol=0, atol=0.01)


def test_one_picture_may_become_several(tmp_path: Path) -> None:
    names = "before cat dog"
    before, cat, dog = (save(tmp_path / f"{name}.png") for name in names.split())
    save(tmp_path / "one.png")
    save(tmp_path / "two.png")
    masks = MaskSettings(mask="drawn", mask_image=f"{tmp_path / 'one.png'}\n{tmp_path / 'two.png'}")
    pair = PairSettings(original_image=f"{before}\n{before}", target_image=f"{cat}\n{dog}")
    named = named_pairs(pair, data(tmp_path), masks, [""])
    found = pair_views(named, data(tmp_path, repeats=2))
    shown = [(one.target.image.path.stem, one.drawn_mask.stem) for one in found if one.drawn_mask]
    assert shown == [("cat", "one"), ("dog", "two")] * 2
    back = pair_views(reverted(named, DirectionSettings(revert=True)), data(tmp_path))
    assert [one.original.image.path.stem for one in back] == ["cat", "dog"]


def test_a_change_near_the_edge_is_learnt_as_it_is_where_moving_would_take_it_away(
    tmp_path: Path,
) -> None:
    save(tmp_path / "a.png")
    changed = Image.new("RGB", (64, 64), "red")
    changed.paste((0, 0, 255), (60, 60, 64, 64))
    changed.save(tmp_path / "a_b.png")
    settings = MaskSettings(mask="difference", mask_floor=0)
    placed = pair_views(find(tmp_path, masks=settings), data(tmp_path), 16)
    shown = [masked(one, settings) for one in placed]
    assert len(shown) == 16
    assert all(mask is not None and mask.max() == 1 for _, mask in shown)
    stayed = [one for (one, _), there in zip(shown, placed, strict=True) if one != there]
    assert 0 < len(stayed) < 15
    assert all(one.original.shift == one.target.shift == UNMOVED for one in stayed)


def view(folder: Path, masks: MaskSettings, **values: object) -> PairView:
    return pair_views(find(folder, masks=masks), data(folder, **values))[0]


def test_mask_of_the_difference_covers_it_and_its_neighbours(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    changed = Image.new("RGB", (64, 64), "red")
    changed.paste((0, 0, 255), (16, 16, 17, 17))  # one pixel of the cell in row 2, column 2
    changed.save(tmp_path / "a_b.png")
    settings = MaskSettings(mask="difference", mask_floor=0.25)
    _, mask = masked(view(tmp_path, settings), settings)
    expected = torch.full((1, 8, 8), 0.25)
    expected[:, 1:4, 1:4] = 1
    assert mask is not None
    torch.testing.assert_close(mask, expected)


def test_drawn_mask_is_cut_and_mirrored_like_its_picture(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    save(folder / "a.png")
    save(folder / "a_b.png")
    drawn = Image.new("L", (128, 128), 0)
    drawn.paste(255, (0, 0, 32, 128))  # the left quarter
    drawn.save(tmp_path / "mask.png")
    settings = MaskSettings(mask="drawn", mask_image=str(tmp_path / "mask.png"), mask_floor=0)
    pairs = find(folder, masks=settings)
    plain, mirrored = (
        masked(one, settings)[1] for one in pair_views(pairs, data(folder, mirror=True))
    )
    expected = torch.zeros(1, 8, 8)
    expected[:, :, :2] = 1
    assert plain is not None
    assert mirrored is not None
    torch.testing.assert_close(plain, expected, rtol=0, atol=0.01)  # the edge is resampled
    torch.testing.assert_close(mirrored, expected.flip(-1), rtol=0, atol=0.01)


def test_alpha_mask_is_the_opaque_part(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 64, 32))  # the upper half
    image.save(tmp_path / "a_b.png")
    settings = MaskSettings(mask="alpha", mask_floor=0.5)
    _, mask = masked(view(tmp_path, settings), settings)
    expected = torch.full((1, 8, 8), 0.5)
    expected[:, :4] = 1
    assert mask is not None
    torch.testing.assert_close(mask, expected)


def test_masks_that_select_nothing_or_are_not_there_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "a_b.png")
    for kind, reason in (("difference", "selects nothing"), ("alpha", "no transparent part")):
        settings = MaskSettings(mask=kind)
        with pytest.raises(BadInput, match=reason):
            masked(view(tmp_path, settings), settings)
    with pytest.raises(BadInput, match="there is no picture"):
        find(tmp_path, masks=MaskSettings(mask="drawn", mask_image="no.png"))
    three = "\n".join([str(tmp_path / "a.png")] * 3)
    with pytest.raises(BadInput, match="3 masks for 1 pairs"):
        find(tmp_path, masks=MaskSettings(mask="drawn", mask_image=three))
