"""Where pictures go."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from diffgen.app import outputs
from diffgen.errors import DiffgenError, UsageError
from diffgen.media.files import FileTaken
from diffgen.recipe import Recipe

PIXELS = np.full((4, 4, 3), 0.5, np.float32)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_without_a_name_they_go_to_a_dated_folder() -> None:
    found = outputs.plan(None, ["a-cat-7"])
    path = found.save(0, PIXELS, Recipe(prompt="a cat"))
    assert path == Path("diffgen-out") / date.today().isoformat() / "a-cat-7.png"
    assert found.save(0, PIXELS, Recipe(prompt="a cat")).name == "a-cat-7-2.png"


@pytest.mark.parametrize(
    ("output", "format", "names", "made"),
    [
        ("a.png", None, ["x"], ["a.png"]),
        ("a.png", None, ["x", "y"], ["a-1.png", "a-2.png"]),
        ("a.JPG", None, ["x"], ["a.JPG"]),
        ("out/", "webp", ["x", "y"], ["out/x.webp", "out/y.webp"]),
        ("out", "jpeg", ["x"], ["out/x.jpg"]),
        ("deep/er/a.png", "png", ["x"], ["deep/er/a.png"]),
    ],
)
def test_names(output: str, format: str | None, names: list[str], made: list[str]) -> None:
    found = outputs.plan(output, names, format=format)
    found.check()
    assert [str(found.save(k, PIXELS, Recipe(prompt="p"))) for k in range(len(names))] == made
    assert sorted(str(path) for path in Path().rglob("*") if path.is_file()) == made


def test_many_pictures_sort_by_name() -> None:
    assert outputs.plan("a.png", ["x"] * 10).stems[:2] == ("a-01", "a-02")


@pytest.mark.parametrize(
    ("output", "format", "said"),
    [
        ("a.bmp", None, "unknown picture format '.bmp'"),
        ("a.png", "jpeg", "change one of them"),
        ("a.npz", "png", "leave out --format"),
        (None, "gif", "unknown format 'gif'"),
    ],
)
def test_formats_that_cannot_be(output: str | None, format: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        outputs.plan(output, ["x"], format=format)


@pytest.mark.parametrize("taken", ["a-2.png", "a-sheet.png"])
def test_a_taken_name_is_found_before_drawing(taken: str) -> None:
    Path(taken).write_text("mine")
    with pytest.raises(FileTaken, match=taken):
        outputs.plan("a.png", ["x", "y"]).check()
    assert os.listdir() == [taken]


def test_force_overwrites_a_chosen_name_alone() -> None:
    Path("a.png").write_text("mine")
    found = outputs.plan("a.png", ["x"], force=True)
    found.check()
    found.save(0, PIXELS, Recipe(prompt="p"))
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    Path("x.png").write_text("mine")
    assert outputs.plan("./", ["x"], force=True).save(0, PIXELS, Recipe(prompt="p")).name == "x-2.png"


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("diffgen.media.files.open", refuse, raising=False)
    with pytest.raises(DiffgenError, match="no permission to write there") as caught:
        outputs.plan("locked/a.png", ["x"]).check()
    assert caught.value.exit_code == 2


def test_folders_made_for_nothing_are_taken_back() -> None:
    Path("kept").mkdir()
    with pytest.raises(UsageError), outputs.plan("kept/a/b/c.png", ["x"]).ready():
        assert Path("kept/a/b").is_dir()
        raise UsageError("no")
    assert [str(path) for path in Path().rglob("*")] == ["kept"]
    with outputs.plan("kept/a/", ["x"]).ready():
        Path("kept/a/file").write_text("mine")
    assert Path("kept/a/file").exists()
