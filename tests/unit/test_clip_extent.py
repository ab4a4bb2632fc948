"""Any size and length for a clip: drawn at the next the family can, cut to exactly what was asked, and told."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import UsageError
from diffgen.media import FrameHash
from diffgen.pipelines.drawing import Clip, Frames
from diffgen.pipelines.extent import length_of
from diffgen.pipelines.image_to_video import image_to_video
from diffgen.pipelines.text_to_video import prepare, stream, text_to_video
from tests import tiny_clips

NTSC = Fraction(24000, 1001)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return diffgen.load(tiny_clips.wan(tmp_path_factory.mktemp("wan")))


@pytest.fixture(scope="module")
def ltx(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return diffgen.load(tiny_clips.ltx(tmp_path_factory.mktemp("ltx")))


@pytest.mark.parametrize(("size", "frames", "drawn"), [
    ((70, 50), 17, "80x64"), ((33, 31), 3, "48x32"), ((32, 32), 1, ""),
])  # fmt: skip
def test_exactly_the_size_and_length_that_was_asked(wan: Model, size: tuple[int, int], frames: int, drawn: str) -> None:
    clip = text_to_video(wan, "a cat", seed=1, steps=1, guidance=1, size=size, frames=frames)[0]
    assert clip.pixels.shape == (frames, size[1], size[0], 3)
    assert (clip.recipe.width, clip.recipe.height, clip.recipe.frames) == (*size, frames)
    assert any(f"drawn at {drawn} and cropped" in note for note in clip.recipe.notes) == bool(drawn)
    assert any("trimmed" in note for note in clip.recipe.notes) == ((frames - 1) % 4 > 0)


def test_the_cut_is_the_middle_of_what_is_drawn(wan: Model) -> None:
    common = dict(seed=3, steps=2, guidance=1)
    whole = text_to_video(wan, "a cat", size=(80, 64), frames=9, **common)[0]
    cut = text_to_video(wan, "a cat", size=(70, 50), frames=7, **common)[0]
    assert np.array_equal(cut.pixels, whole.pixels[:7, 7:57, 5:75])


def test_frames_come_in_pieces_and_need_not_be_kept(wan: Model) -> None:
    recipes = prepare(wan, "a cat", seed=3, steps=1, guidance=1, size=(30, 20), frames=11)
    kept, streamed = (list(stream(wan, recipes, keep=keep)) for keep in (True, False))
    pieces = [event for event in streamed if isinstance(event, Frames)]
    assert [piece.start for piece in pieces] == [0, 1, 5, 9] and {piece.total for piece in pieces} == {11}
    whole, last = kept[-1], streamed[-1]
    assert isinstance(whole, Clip) and isinstance(last, Clip)
    assert np.array_equal(np.concatenate([piece.pixels for piece in pieces]), whole.pixels)
    assert last.pixels.shape == (0, 20, 30, 3) and last.recipe == whole.recipe
    hashed = FrameHash()
    hashed.add(whole.pixels)
    assert whole.recipe.extra["frames_sha256"] == hashed.hexdigest()


def test_a_first_frame_stands_where_the_cut_is(ltx: Model) -> None:
    y, x = np.mgrid[:50, :70]
    image = np.stack([x / 70, y / 50, np.full_like(x, 0.5, dtype=float)], axis=-1).astype(np.float32)
    clip = image_to_video(ltx, image, "a cat", seed=1, steps=1, guidance=1, size=(70, 50), frames=4)[0]
    assert clip.pixels.shape == (4, 50, 70, 3)
    assert not any("scaled" in note for note in clip.recipe.notes)


def test_two_of_seconds_frames_and_rate_give_the_third(wan: Model) -> None:
    family = wan.family
    assert length_of(family) == (81, 16.0, ())
    assert length_of(family, seconds=2) == (32, 16.0, ())
    assert length_of(family, frames=17, fps=23.976) == (17, float(NTSC), ())
    assert length_of(family, frames=17, seconds="2") == (17, 8.5, ())
    count, rate, notes = length_of(family, seconds=2, fps="23.976")
    assert (count, rate) == (48, float(NTSC))
    assert notes == ("2 s at 23.976 frames a second are 47.95 frames; rounded to 48",)
    for match, wrong in {
        "seconds must be above 0": {"seconds": 0}, "above 0": {"fps": 0}, "frames must be at least 1": {"frames": 0},
        "are 32 frames, not 9": {"seconds": 2, "frames": 9, "fps": 16},
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=match):
            length_of(family, **wrong)


def test_the_rate_is_in_the_recipe(wan: Model) -> None:
    recipe = prepare(wan, "a cat", seed=1, seconds=0.5, fps=29.97)[0]
    assert recipe.frames == 15 and recipe.fps == float(Fraction(30000, 1001))
    assert "rounded to 15" in recipe.notes[0]


@pytest.mark.slow
def test_300_frames_through_windows(wan: Model) -> None:
    """More than the tiny model has positions for: windows, decoded in 75 pieces."""
    clip = text_to_video(wan, "a cat", seed=1, steps=1, guidance=1, size=(16, 16), frames=300)[0]
    assert clip.pixels.shape == (300, 16, 16, 3)
