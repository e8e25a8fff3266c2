from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from PIL import Image

from trainer.data import folder as folder_module
from trainer.data.folder import inspect, natural_key, scan
from trainer.errors import BadInput, Problem
from trainer.settings.groups import DataSettings


def picture(path: Path, height: int = 64, width: int = 64) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((width, height), 100).save(path)
    return path


def truncated(path: Path) -> Path:
    data = picture(path).read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    return path


def settings(images: object, **values: object) -> DataSettings:
    sizes = {"image_size_px": (64, 64), "bucket_step_px": 32, "min_length_px": 32}
    return DataSettings(images=str(images), **{**sizes, **values})  # type: ignore[arg-type]


def problems_of(data: DataSettings, **options: bool) -> tuple[Problem, ...]:
    with pytest.raises(BadInput) as caught:
        scan(data, **options)
    assert all(problem.cure for problem in caught.value.problems)
    return caught.value.problems


def names(data: DataSettings) -> list[str]:
    return [image.path.relative_to(data.images).as_posix() for image in scan(data)]


def test_subfolders_letter_case_and_natural_order(tmp_path: Path) -> None:
    shuffled = ["b/10.png", "b/9.PNG", "a2.Jpg", "a10.jpeg", "A1.gif", "b/c/x.webp"]
    for name in shuffled:
        picture(tmp_path / name)
    expected = ["A1.gif", "a2.Jpg", "a10.jpeg", "b/9.PNG", "b/10.png", "b/c/x.webp"]
    assert names(settings(tmp_path)) == expected


def test_order_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1.png", "2.png", "10.png", "x/1.png", "y/1.png"):
        picture(tmp_path / name)
    before = names(settings(tmp_path))
    walk = os.walk

    def backwards(*args: object, **options: object) -> object:
        for here, folders, files in walk(*args, **options):  # type: ignore[call-overload]
            yield here, folders, sorted(files, reverse=True)

    monkeypatch.setattr(folder_module.os, "walk", backwards)
    assert names(settings(tmp_path)) == before


def test_natural_key() -> None:
    paths = [Path(name) for name in ("a10", "é", "a1b10", "01", "b1", "a2", "0x/1", "B1", "a1b2")]
    ordered = sorted(paths, key=natural_key)
    assert [p.as_posix() for p in ordered] == [
        *("0x/1", "01", "a1b2", "a1b10", "a2", "a10", "B1", "b1", "é")
    ]


def test_sizes_are_height_width_after_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8
    Image.new("RGB", (80, 64)).save(tmp_path / "a.jpg", exif=exif)
    picture(tmp_path / "b.png", 64, 80)
    assert [image.size_px for image in scan(settings(tmp_path))] == [(80, 64), (64, 80)]


def test_captions(tmp_path: Path) -> None:
    for name in ("1.png", "2.JPG", "3.png", "4.png", "5.png", "sub/1.png", "v1.5.png"):
        picture(tmp_path / name)
    (tmp_path / "1.txt").write_text("from txt")
    (tmp_path / "1.caption").write_text("from caption")
    (tmp_path / "2.CAPTION").write_text("from caption")
    (tmp_path / "3.txt").write_bytes(b"\xef\xbb\xbfwith mark\n")
    (tmp_path / "4.txt").write_text("\n")
    (tmp_path / "v1.5.txt").write_text("dotted")
    captions = [image.caption for image in scan(settings(tmp_path, trigger_word="ohwx"))]
    assert captions == [
        "ohwx, from txt",
        "ohwx, from caption",
        "ohwx, with mark",
        "ohwx",
        "ohwx",
        "ohwx",
        "ohwx, dotted",
    ]
    assert [image.caption for image in scan(settings(tmp_path))][3:6] == ["", "", ""]


def test_filename_as_tag_replaces_caption_files(tmp_path: Path) -> None:
    picture(tmp_path / "red cat.png")
    (tmp_path / "red cat.txt").write_bytes(b"\xff not read at all")
    (image,) = scan(settings(tmp_path, trigger_word="ohwx", filename_as_tag=True))
    assert image.caption == "ohwx, red cat"


def test_missing_folder(tmp_path: Path) -> None:
    (problem,) = problems_of(settings(tmp_path / "nowhere"))
    assert problem.where == "images"
    assert str(tmp_path / "nowhere") in problem.what and "does not exist" in problem.what


def test_not_a_folder(tmp_path: Path) -> None:
    (problem,) = problems_of(settings(picture(tmp_path / "a.png")))
    assert "not a folder" in problem.what and str(tmp_path) in problem.cure


def test_no_folder_named() -> None:
    (problem,) = problems_of(settings("  "))
    assert problem.where == "images"


def test_empty_folder_says_which_formats_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.heic").touch()
    (tmp_path / "a.txt").touch()
    (problem,) = problems_of(settings(tmp_path))
    assert str(tmp_path) in problem.what and "1 heic" in problem.what
    assert "jpg jpeg png gif tif tiff bmp webp pcx ico" in problem.cure


def test_quoted_path(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert len(scan(settings(f'"{tmp_path}" '))) == 1


def test_names_with_a_dot_in_front_are_passed_over(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    picture(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.png")
    assert names(settings(tmp_path)) == ["a.png"]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    picture(tmp_path / "real" / "a.png")
    picture(tmp_path / "data" / "b.png")
    try:
        (tmp_path / "data" / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
        (tmp_path / "data" / "loop").symlink_to(tmp_path / "data", target_is_directory=True)
    except OSError:
        pytest.skip("this system does not let tests make links")
    assert names(settings(tmp_path / "data")) == ["b.png", "linked/a.png"]


def bad_folder(tmp_path: Path) -> list[str]:
    """A good picture among one of each kind of bad ones; the paths that are to be named."""
    picture(tmp_path / "good.png")
    (tmp_path / "corrupt.jpg").write_bytes(b"no picture at all" * 30)
    (tmp_path / "empty.png").touch()
    picture(tmp_path / "latin.png")
    (tmp_path / "latin.txt").write_bytes("Mädchen".encode("latin-1"))
    picture(tmp_path / "long.png", 64, 64 * 9)
    picture(tmp_path / "tiny.png", 4, 4)
    found = ["corrupt.jpg", "empty.png", "latin.txt", "long.png", "tiny.png"]
    return [str(tmp_path / name) for name in found]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    expected = bad_folder(tmp_path)
    assert [problem.where for problem in problems_of(settings(tmp_path))] == expected


def test_problems_of_settings_and_files_come_together(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    (tmp_path / "bad.png").touch()
    found = problems_of(settings(tmp_path, image_size_px=(100, 64)))
    assert [problem.where for problem in found] == ["image_size_px", str(tmp_path / "bad.png")]


def test_skip_names_each_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = bad_folder(tmp_path)
    with caplog.at_level(logging.WARNING):
        images = scan(settings(tmp_path, unreadable="skip"))
    assert [image.path.name for image in images] == ["good.png"]
    left_out = [r.getMessage() for r in caplog.records if "Left out" in r.getMessage()]
    assert len(left_out) == len(expected)
    assert all(path in line for path, line in zip(expected, left_out, strict=True))


def test_skip_stops_when_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "bad.png").touch()
    (problem,) = problems_of(settings(tmp_path, unreadable="skip"))
    assert problem.where == str(tmp_path / "bad.png")


def test_skip_does_not_skip_settings(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    data = settings(tmp_path, unreadable="skip", sub_images=2, min_length_px=64)
    (problem,) = problems_of(data)
    assert problem.where == "sub_images"
    assert "min_length_px" in problem.cure


def test_decode_finds_truncated_pictures(tmp_path: Path) -> None:
    bad = truncated(tmp_path / "bad.png")
    picture(tmp_path / "good.png")
    assert len(scan(settings(tmp_path))) == 2
    (problem,) = problems_of(settings(tmp_path), decode=True)
    assert problem.where == str(bad)
    assert "truncated" in problem.what


def test_equal_base_names_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "a.jpg", "b.png", "sub/b.png"):
        picture(tmp_path / name)
    (tmp_path / "a.txt").write_text("shared")
    with caplog.at_level(logging.WARNING):
        images = scan(settings(tmp_path))
    assert [image.caption for image in images] == ["shared", "shared", "", ""]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "a.jpg" in message and "a.png" in message and "b.png" not in message


def test_warnings_tell_of_enlarging_cropping_and_missing_frames(tmp_path: Path) -> None:
    picture(tmp_path / "fine.png")
    picture(tmp_path / "small.png", 20, 20)
    picture(tmp_path / "long.png", 64, 200)
    data = settings(tmp_path, image_size_px=(64, 64), min_length_px=32, sub_images=2)
    warnings = inspect(data).warnings
    assert [warning.split(":")[0] for warning in warnings] == [
        "enlarged more than twice, which teaches blur",
        "cropped by more than half; captions may tell of what is cut off",
    ]
    assert "small.png" in warnings[0] and "long.png" in warnings[1]
    assert "fewer smaller frames" in inspect(settings(tmp_path, sub_images=9)).warnings[-1]


def test_many_are_named_in_one_line(tmp_path: Path) -> None:
    for number in range(8):
        picture(tmp_path / f"{number}.png", 20, 20)
    (warning,) = inspect(settings(tmp_path)).warnings
    assert "4.png" in warning and "5.png" not in warning and "and 3 more" in warning


def test_other_formats_are_mentioned(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.HEIC").touch()
    assert inspect(settings(tmp_path)).warnings == ("files of formats that are not read: 1 heic",)


def test_lines_of_a_caption_are_joined_or_kept_to_draw_from(tmp_path: Path) -> None:
    Image.new("RGB", (80, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("one  line\n\n another ")
    data = settings(tmp_path, trigger_word="ohwx")
    for lines, caption in ((False, "ohwx, one line another"), (True, "ohwx, one line\nanother")):
        (image,) = inspect(data, lines=lines).images
        assert image.caption == caption
