"""Clips to disk and back: exact size, count and times in every format, the recipe inside, nothing half-written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffgen.errors import DiffgenError, NumericalError, UsageError
from diffgen.media import (
    Encoding,
    FrameHash,
    Sound,
    clip_info,
    exact_rate,
    exact_seconds,
    frames_in,
    load_clip,
    new_clip,
    read_frames,
    read_metadata,
    read_recipe,
    save_clip,
)
from diffgen.media.files import FileTaken
from diffgen.media.movie import CODECS, Codec
from diffgen.media.rates import ticks
from diffgen.recipe import Recipe

NTSC = Fraction(24000, 1001)
RECIPE = Recipe(prompt="ein Würfel, 立方体", negative="blur", seed=7, frames=17, fps=float(NTSC), width=70, height=50)
FORMATS = [".mp4", ".webm", ".gif", ".webp", ".apng", ""]
LOSSLESS = (".apng", "")


def moving(count: int, width: int = 70, height: int = 50) -> Iterator[np.ndarray]:
    """A red square on a soft ramp: what moves, what stands still, and colours a codec could shift."""
    y, x = np.mgrid[:height, :width]
    for k in range(count):
        frame = np.stack([x * 2 % 256, y * 3 % 256, np.full_like(x, 120)], axis=-1).astype(np.uint8)
        left = 2 * k % (width - 12)
        frame[10:30, left : left + 12] = (220, 40, 40)
        yield frame


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = ((a.astype(float) - b.astype(float)) ** 2).mean()
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize(("width", "height", "count"), [(70, 50, 17), (71, 51, 17), (70, 50, 1), (33, 32, 2)])
def test_size_count_and_rate_are_exact(tmp_path: Path, extension: str, width: int, height: int, count: int) -> None:
    path = tmp_path / f"clip{extension}"
    save_clip(path, moving(count, width, height), fps=23.976, recipe=RECIPE)
    clip = load_clip(path)
    assert clip.pixels.shape == (count, height, width, 3)
    # Colour at half resolution, on sharp edges.
    assert psnr(clip.pixels, np.stack(list(moving(count, width, height)))) > 28
    info = clip_info(path)
    assert (info.width, info.height) == (width, height)
    if extension in (".gif", ".webp"):
        clock = 100 if extension == ".gif" else 1000
        assert all(abs(time - k / NTSC) <= Fraction(1, clock) for k, time in enumerate(clip.times))
    else:
        assert info.fps == NTSC
        assert clip.times == tuple(k / NTSC for k in range(count))


@pytest.mark.parametrize("extension", FORMATS)
def test_300_frames_of_which_many_do_not_change(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"still{extension}"
    stills = list(moving(3))
    save_clip(path, (stills[k // 100] for k in range(300)), fps=24)
    assert sum(1 for _ in read_frames(path)) == 300
    last = max(frame.time for frame in read_frames(path))
    assert abs(last - Fraction(299, 24)) <= Fraction(1, 100)


@pytest.mark.parametrize("extension", FORMATS)
def test_the_recipe_is_read_back_whole(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"clip{extension}"
    save_clip(path, moving(3), fps=24, recipe=RECIPE)
    assert read_recipe(path) == RECIPE
    if extension not in (".gif", ""):
        assert read_metadata(path)["parameters"].startswith(RECIPE.prompt)


@pytest.mark.parametrize("extension", LOSSLESS)
def test_lossless_formats_keep_every_bit(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"clip{extension}"
    save_clip(path, moving(9), fps=24)
    assert (load_clip(path).pixels == np.stack(list(moving(9)))).all()


def test_an_mp4_is_h264_in_420_with_its_index_in_front(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    clip = save_clip(path, moving(17), fps=23.976)
    info, data = clip_info(path), path.read_bytes()
    assert (info.codec, info.pixel_format, info.frames, info.fps) == ("h264", "yuv420p", 17, NTSC)
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert clip.notes == ()


def test_an_odd_mp4_keeps_its_size_and_says_what_that_costs(tmp_path: Path) -> None:
    clip = save_clip(tmp_path / "odd.mp4", moving(2, 71, 51), fps=24)
    assert clip_info(clip.path).pixel_format == "yuv444p"
    assert "71x51 is odd" in clip.notes[0]


@pytest.mark.parametrize(
    ("name", "codec", "called"), [("a.mp4", "h265", "hevc"), ("a.mp4", "av1", "av1"), ("a.webm", "av1", "av1")]
)
def test_other_codecs(tmp_path: Path, name: str, codec: str, called: str) -> None:
    save_clip(tmp_path / name, moving(5, 71, 51), fps=NTSC, recipe=RECIPE, encoding=Encoding(codec=codec))
    info = clip_info(tmp_path / name)
    assert (info.codec, info.width, info.height, info.fps) == (called, 71, 51, NTSC)
    assert len(load_clip(tmp_path / name).times) == 5
    assert read_recipe(tmp_path / name) == RECIPE


def test_crf_and_bitrate_change_the_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noisy = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(12)]
    sizes = [
        save_clip(tmp_path / f"{k}.mp4", noisy, fps=24, encoding=encoding).path.stat().st_size
        for k, encoding in enumerate([Encoding(crf=10), Encoding(crf=40), Encoding(bitrate=20_000)])
    ]
    assert sizes[0] > 3 * sizes[1] and sizes[0] > 3 * sizes[2]


def test_colours_survive(tmp_path: Path) -> None:
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255), (0, 0, 0)):
        flat = np.full((32, 32, 3), colour, np.uint8)
        for name in ("flat.mp4", "flat.webm", "flat.gif", "flat.webp"):
            save_clip(tmp_path / name, [flat] * 2, fps=24, overwrite=True)
            assert np.abs(load_clip(tmp_path / name).pixels.astype(int) - flat).max() <= 4, (name, colour)


def test_a_gif_palette_serves_colours_that_come_late(tmp_path: Path) -> None:
    frames = [np.full((24, 24, 3), colour, np.uint8) for colour in ((10, 200, 30), (250, 120, 0), (30, 30, 220))]
    save_clip(tmp_path / "late.gif", frames, fps=10)
    assert np.abs(load_clip(tmp_path / "late.gif").pixels.astype(int) - np.stack(frames)).max() <= 4


def test_floats_are_rounded_as_pictures_are_and_the_hash_sees_the_same(tmp_path: Path) -> None:
    whole = np.stack(list(moving(4)))
    floats, seen = whole.astype(np.float32) / 255, (FrameHash(), FrameHash())
    seen[0].add(whole)
    for frame in floats:
        seen[1].add(frame)
    assert seen[0].hexdigest() == seen[1].hexdigest()
    save_clip(tmp_path / "a.apng", floats, fps=8)
    assert (load_clip(tmp_path / "a.apng").pixels == whole).all()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield from moving(5)
        raise RuntimeError("the model stopped")

    for extension in FORMATS:
        with pytest.raises(RuntimeError, match="the model stopped"):
            save_clip(tmp_path / f"clip{extension}", failing(), fps=24)
    with pytest.raises(NumericalError), new_clip(tmp_path / "nan.mp4", width=70, height=50, fps=24) as clip:
        clip.add(np.full((50, 70, 3), np.nan, np.float32))
    with pytest.raises(UsageError, match="no frames"), new_clip(tmp_path / "none.mp4", width=70, height=50, fps=24):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("extension", FORMATS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, extension: str) -> None:
    import resource
    import signal

    rng = np.random.default_rng(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # The nearest to a full disk that needs no rights: no file may pass 8 kB.
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
        with pytest.raises(DiffgenError, match=r"cannot write .*clip.*: the (file is too large|disk is full)"):
            save_clip(
                tmp_path / f"clip{extension}",
                (rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for _ in range(60)), fps=24,
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "mine.mp4").write_text("mine")
    with pytest.raises(FileTaken):
        save_clip(tmp_path / "mine.mp4", moving(2), fps=24)
    save_clip(tmp_path / "frames", moving(5), fps=24)
    with pytest.raises(FileTaken):
        save_clip(tmp_path / "frames", moving(2), fps=24)
    save_clip(tmp_path / "frames", moving(2), fps=24, overwrite=True)
    assert len(load_clip(tmp_path / "frames").times) == 2
    (tmp_path / "frames" / "diary.txt").write_text("dear diary")
    with pytest.raises(UsageError, match=r"holds other files, such as diary\.txt"):
        save_clip(tmp_path / "frames", moving(2), fps=24, overwrite=True)
    assert (tmp_path / "frames" / "diary.txt").exists() and (tmp_path / "mine.mp4").read_text() == "mine"


def test_bad_requests_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(match: str, name: str = "a.mp4", fps: float = 24, **options: object) -> None:
        with pytest.raises(UsageError, match=match):
            save_clip(tmp_path / name, moving(2), fps=fps, **options)  # type: ignore[arg-type]

    fails("unknown clip format '.mp3'", "a.mp3")
    fails("above 0", fps=0)
    fails("unknown codec for .mp4 'vp9'", encoding=Encoding(codec="vp9"))
    fails("crf of h264 is 0 to 51; got 60", encoding=Encoding(crf=60))
    fails("crf is for .mp4 and .webm", "a.gif", encoding=Encoding(crf=20))
    fails("quality is 1 to 100", "a.webp", encoding=Encoding(quality=0))
    monkeypatch.setitem(CODECS, "h264", Codec(encoder="libnone", crf=1))
    fails("the encoder libnone is not in this build of PyAV")
    monkeypatch.setitem(sys.modules, "av", None)
    fails(r"\.mp4 needs the package av; run: pip install 'diffgen\[video\]'")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_clips_are_sentences(tmp_path: Path) -> None:
    text, cut = tmp_path / "notes.mp4", tmp_path / "cut.mp4"
    text.write_text("this is no movie")
    save_clip(tmp_path / "whole.mp4", moving(60, 128, 128), fps=24)
    data = (tmp_path / "whole.mp4").read_bytes()
    cut.write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "empty").mkdir()
    for path, match in [
        (text, "not a clip that can be read"), (cut, "damaged or cut off"), (tmp_path / "gone.mp4", "there is no file"),
        (tmp_path / "empty", "holds no PNG files"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=match):
            load_clip(path)
    with pytest.raises(UsageError, match="more than 10 frames"):
        load_clip(tmp_path / "whole.mp4", most=10)


def with_sound(path: Path, seconds: int = 2) -> None:
    """A movie with a tone, as another program would make it."""
    import av

    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=12)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = out.add_stream("aac", rate=44100, layout="mono")
        for frame in moving(12 * seconds, 64, 64):
            out.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        tone = np.sin(np.arange(44100 * seconds) * 440 * 2 * np.pi / 44100).astype(np.float32)[None] * 0.5
        for start in range(0, tone.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(tone[:, start : start + 1024]), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 44100, start
            out.mux(audio.encode(frame))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def sounding(path: Path) -> tuple[float, float]:
    """(seconds, loudness) of a clip's sound."""
    import av

    with av.open(str(path)) as source:
        rate = source.streams.audio[0].codec_context.sample_rate
        samples = np.concatenate([frame.to_ndarray().mean(axis=0) for frame in source.decode(audio=0)])
    return len(samples) / rate, float(np.sqrt((samples.astype(float) ** 2).mean()))


@pytest.mark.parametrize("name", ["out.mp4", "out.webm"])
def test_sound_goes_through_and_ends_with_the_clip(tmp_path: Path, name: str) -> None:
    with_sound(tmp_path / "in.mp4")
    assert load_clip(tmp_path / "in.mp4").sound == Sound(path=tmp_path / "in.mp4")
    sound = Sound(path=tmp_path / "in.mp4", start=Fraction(1, 2))
    clip = save_clip(tmp_path / name, moving(12, 64, 64), fps=12, sound=sound)
    seconds, loudness = sounding(clip.path)
    assert 0.9 < seconds < 1.1 and 0.2 < loudness < 0.5
    assert len(load_clip(clip.path).times) == 12
    assert bool(clip.notes) == (name == "out.webm")


def test_sound_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    with_sound(tmp_path / "in.mp4")
    silent = save_clip(tmp_path / "silent.mp4", moving(3), fps=12)
    assert (
        "holds no sound"
        in save_clip(tmp_path / "a.gif", moving(3), fps=12, sound=Sound(path=tmp_path / "in.mp4")).notes[0]
    )
    assert "has no sound" in save_clip(tmp_path / "a.mp4", moving(3), fps=12, sound=Sound(path=silent.path)).notes[0]


def test_a_clip_on_its_side_comes_upright(tmp_path: Path) -> None:
    import av

    path = tmp_path / "phone.mp4"
    save_clip(path, moving(2, 64, 32), fps=24)
    # A phone stores the matrix of its rotation in the track's header; 90 degrees, as fixed-point numbers.
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 4 + 4 * 5 + 4 * 4
    matrix = [0, 1 << 16, 0, -(1 << 16) & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30]
    data[place : place + 36] = b"".join(number.to_bytes(4, "big") for number in matrix)
    path.write_bytes(bytes(data))
    with av.open(str(path)) as source:
        assert next(source.decode(video=0)).rotation % 180 == 90
    info, pixels = clip_info(path), load_clip(path).pixels
    assert (info.width, info.height) == (32, 64) and pixels.shape == (2, 64, 32, 3)
    # Turned clockwise, the top left corner of what was stored is at the top right.
    assert np.abs(pixels[0, 2, -3].astype(int) - next(moving(1, 64, 32))[2, 2]).max() < 24


@given(st.sampled_from([24000, 30000, 60000, 120000]), st.integers(1, 20_000))
def test_ntsc_rates_are_known_however_they_are_typed(thousands: int, count: int) -> None:
    rate = Fraction(thousands, 1001)
    for typed in (float(rate), round(float(rate), 3), round(float(rate), 2), f"{thousands}/1001"):
        assert exact_rate(typed) == rate
    assert frames_in(count / rate, rate) == count


@given(st.fractions(Fraction(1, 10), 60), st.integers(1, 400), st.sampled_from([100, 1000]))
def test_rounded_times_do_not_drift(rate: Fraction, count: int, clock: int) -> None:
    lengths = ticks(count, rate, clock)
    assert len(lengths) == count and min(lengths) >= 1
    assert abs(sum(lengths) - count * clock / rate) <= Fraction(1, 2)


def test_rates_and_lengths_that_cannot_be() -> None:
    for wrong in (0, -1, "fast", float("nan"), float("inf"), 5000, "1/0"):
        with pytest.raises(UsageError, match="frames a second"):
            exact_rate(wrong)
    for wrong in (0, -2, "long", float("nan")):
        with pytest.raises(UsageError, match="seconds"):
            exact_seconds(wrong)
    assert frames_in(exact_seconds("0.1"), Fraction(24)) == 2
