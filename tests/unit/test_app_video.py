"""`diffgen video`, from its arguments to the file."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from diffgen.app.cli import run
from diffgen.media import clip_info, load_clip, read_recipe, save_image

NTSC = Fraction(24000, 1001)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_clips

    return tiny_clips.wan(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def ltx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_clips

    return tiny_clips.ltx(tmp_path_factory.mktemp("ltx"))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(model: Path, *more: str) -> list[str]:
    return ["video", "a cat", "--size", "32x32", "--frames", "5", "--steps", "1", "--seed", "3", "--guidance", "1",
            "--model", str(model), *more]  # fmt: skip


def test_a_clip_becomes_arrays(wan: Path, tmp_path: Path) -> None:
    file = tmp_path / "clip.npz"
    assert run([*command(wan), "-o", str(file)]) == 0
    with np.load(file) as data:
        assert data["pixels"].shape == (1, 5, 32, 32, 3) and data["pixels"].dtype == np.float32
        assert data["pixels"].min() >= 0 and data["pixels"].max() <= 1
    assert run([*command(wan), "-o", str(file)]) == 2


def test_an_mp4_of_exactly_what_was_asked_is_replayed_to_the_bit(wan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command(wan), "--size", "70x50", "--frames", "17", "--fps", "23.976", "-o", "a.mp4"]) == 0
    told = capsys.readouterr().err
    assert "drawn at 80x64 and cropped in the middle to 70x50" in told
    info = clip_info("a.mp4")
    assert (info.codec, info.width, info.height, info.frames, info.fps) == ("h264", 70, 50, 17, NTSC)
    assert run(["show", "a.mp4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["frames"] == 17
    assert run(["replay", "a.mp4", "--verify", "--model", str(wan)]) == 0
    assert "the same to the bit" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.webm", "a.gif", "a.webp", "a.apng"])
def test_every_format_holds_the_recipe_and_its_count(wan: Path, name: str) -> None:
    assert run([*command(wan), "--frames", "3", "-o", name]) == 0
    recipe = read_recipe(name)
    assert recipe is not None and recipe.prompt == "a cat" and recipe.frames == 3
    assert len(load_clip(name).times) == 3


def test_another_seed_is_not_the_same(wan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dataclasses import replace

    from diffgen.media import save_clip

    assert run([*command(wan), "-o", "a.apng"]) == 0
    clip, recipe = load_clip("a.apng"), read_recipe("a.apng")
    assert recipe is not None
    save_clip("b.apng", clip.pixels, fps=clip.fps, recipe=replace(recipe, seed=4))
    capsys.readouterr()
    assert run(["replay", "b.apng", "--verify", "--model", str(wan)]) == 1
    assert "is not what its recipe draws" in capsys.readouterr().err


def test_several_clips_in_a_batch_get_names_and_are_replayed_alone(
    wan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command(wan), "--count", "2", "--batch", "2", "--format", "apng", "-o", "clips/", "--sheet"]) == 0
    names = sorted(path.name for path in Path("clips").iterdir())
    assert names == ["a-cat-3-sheet.png", "a-cat-3.apng", "a-cat-4-sheet.png", "a-cat-4.apng"]
    assert run(["replay", "clips/a-cat-4.apng", "--verify", "--model", str(wan)]) == 0


def test_without_a_name_clips_go_to_a_dated_folder(wan: Path) -> None:
    assert run(command(wan)) == 0
    assert [path.name for path in Path("diffgen-out").rglob("*.mp4")] == ["a-cat-3.mp4"]


def test_a_folder_of_frames_and_the_frames_beside_a_clip(wan: Path) -> None:
    assert run([*command(wan), "--format", "png", "-o", "out/"]) == 0
    assert read_recipe("out/a-cat-3") is not None and len(load_clip("out/a-cat-3").times) == 5
    assert run([*command(wan), "-o", "kept.gif", "--keep-frames"]) == 0
    assert (load_clip("kept-frames").pixels == load_clip("out/a-cat-3").pixels).all()


def test_a_first_frame_of_another_shape_is_told(ltx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_image("wide.png", np.full((40, 90, 3), 0.5, np.float32))
    assert run([*command(ltx), "--from", "wide.png", "--frames", "3", "-o", "a.mp4"]) == 0
    assert "the picture was scaled from 90x40 to 32x32, 50 columns and 0 rows cut off" in capsys.readouterr().err
    assert run(["replay", "a.mp4", "--verify", "--model", str(ltx)]) == 2
    assert run(["replay", "a.mp4", "--verify", "--model", str(ltx), "--from", "wide.png"]) == 0
    save_image("other.png", np.full((40, 90, 3), 0.4, np.float32))
    assert run(["replay", "a.mp4", "--verify", "--model", str(ltx), "--from", "other.png"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--frames", "0"], "frames must be at least 1"),
        (["--seconds", "0"], "seconds must be above 0"),
        (["--fps", "0"], "above 0"),
        (["--from", "notes.txt"], "notes.txt is not a picture that can be read"),
        (["--extend", "broken.mp4"], "broken.mp4 is not a clip that can be read"),
        (["-o", "clip.avi"], "unknown clip format '.avi'"),
        (["-o", "clip.gif", "--crf", "20"], "crf is for .mp4 and .webm"),
        (["--bitrate", "fast"], "bits a second"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    wan: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    Path("notes.txt").write_text("not a picture")
    Path("broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    assert run([*command(wan), *arguments]) == 2
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told and told.count("diffgen: ") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["broken.mp4", "notes.txt"]


def test_no_encoder_installed_is_told_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wan: Path
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("diffgen.app.startup.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    assert run([*command(wan), "-o", "a.mp4"]) == 2
    assert ".mp4 needs the package av; run: pip install 'diffgen[video]'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_nothing_but_the_frames_that_were_to_be_kept(
    wan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # Enough for a frame, and not for the clip.
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, before[1]))
        status = run([*command(wan), "--size", "64x64", "-o", "a.gif", "--keep-frames"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    told = capsys.readouterr().err
    assert status == 1 and "cannot write a.gif" in told and "frames were kept in a-frames" in told
    assert [path.name for path in Path().iterdir()] == ["a-frames"] and any(Path("a-frames").glob("frame-*.png"))
