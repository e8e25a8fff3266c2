from __future__ import annotations

from pathlib import Path

import pytest

from trainer.data.captions import caption_file, read_caption, with_trigger
from trainer.errors import BadInput


def test_txt_wins_over_caption() -> None:
    txt, caption = Path("a.txt"), Path("a.caption")
    assert caption_file({".caption": caption, ".txt": txt, ".png": Path("a.png")}) == txt
    assert caption_file({".caption": caption}) == caption
    assert caption_file({".png": Path("a.png")}) is None


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_utf8_with_and_without_bom(tmp_path: Path, bom: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(bom + "ein Mädchen, 桜\r\n".encode())
    assert read_caption(path) == "ein Mädchen, 桜"


def test_caption_becomes_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n a cat\n\ton a   mat \n\n")
    assert read_caption(path) == "a cat on a mat"


@pytest.mark.parametrize("data", ["Mädchen".encode("cp1252"), "cat".encode("utf-16"), b"\xff"])
def test_other_encodings_are_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(BadInput) as caught:
        read_caption(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert "UTF-8" in problem.what and "UTF-8" in problem.cure


def test_missing_caption_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.txt"):
        read_caption(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("trigger", "caption", "expected"),
    [
        ("ohwx", "a cat", "ohwx, a cat"),
        ("ohwx", "", "ohwx"),
        ("", "a cat", "a cat"),
        ("", "", ""),
        ("  ohwx, ", " a cat, ", "ohwx, a cat"),
        ("ohwx", ", a cat", "ohwx, a cat"),
    ],
)
def test_trigger_word(trigger: str, caption: str, expected: str) -> None:
    assert with_trigger(trigger, caption) == expected
