"""Pictures to and from disk: exact recipes, whole files or none, no clobbering, clear refusals."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffgen import media
from diffgen.errors import NumericalError, UsageError
from diffgen.media import exif
from diffgen.recipe import Recipe

PIXELS = (np.arange(24 * 16 * 3, dtype=np.uint8) % 251).reshape(16, 24, 3)
RECIPE = Recipe(
    prompt="猫 🍎 ein Bär\nnew line", negative="“bad”", seed=7, steps=3, versions={"diffgen": "0.1.0"}
)
KINDS = ["a.png", "a.jpg", "a.jpeg", "a.webp"]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pixels_round_as_diffusers_does():
    array = np.array([[[0.0, 1.0, 0.5], [0.5 / 255, 1.5 / 255, 2.5 / 255], [-1.0, 2.0, 0.4]]], np.float32)
    expected = (array.clip(0, 1) * 255).round().astype("uint8")
    assert np.array_equal(media.to_pixels(array), expected)
    assert media.to_pixels(np.stack([array, array])).shape == (2, 1, 3, 3)
    with pytest.raises(NumericalError):
        media.to_pixels(array * np.nan)
    for bad in (array[..., 0], array[..., :2], np.zeros((0, 2, 3)), np.zeros((2, 2, 3), int)):
        with pytest.raises(UsageError):
            media.to_pixels(bad)


@pytest.mark.parametrize("name", KINDS)
def test_picture_and_recipe_come_back(tmp_path, name):
    path = media.save_image(tmp_path / "deep" / "er" / name, PIXELS / np.float32(255), RECIPE)
    assert left(path.parent) == [name]
    assert media.read_recipe(path) == RECIPE
    assert Recipe.from_parameters(media.read_metadata(path)["parameters"]).prompt == RECIPE.prompt
    back = media.load_image(path)
    assert back.dtype == np.float32 and back.shape == (16, 24, 3)
    if name.endswith("png"):
        assert np.array_equal(media.to_pixels(back), PIXELS)


def test_lossless_webp_no_recipe_and_permissions(tmp_path):
    path = media.save_image(tmp_path / "a.webp", PIXELS, lossless=True)
    assert np.array_equal(media.to_pixels(media.load_image(path)), PIXELS)
    assert media.read_recipe(path) is None
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_chunks_are_where_other_tools_look(tmp_path):
    path = media.save_image(tmp_path / "a.png", PIXELS, Recipe(prompt="plain", seed=1, steps=2))
    data = path.read_bytes()
    assert b"tEXtparameters\0plain" in data and b"iTXtdiffgen\0" in data
    assert data.index(b"tEXt") < data.index(b"IDAT")
    data = media.save_image(tmp_path / "b.png", PIXELS, RECIPE).read_bytes()
    assert "猫 🍎 ein Bär".encode() in data and b"iTXtparameters\0" in data
    with Image.open(media.save_image(tmp_path / "a.jpg", PIXELS, RECIPE)) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + RECIPE.to_parameters().encode("utf-16-be")


@settings(max_examples=25, deadline=None)
@given(prompt=st.text(), name=st.sampled_from(KINDS))
def test_any_prompt_is_exact_in_every_format(tmp_path_factory, prompt, name):
    recipe = Recipe(prompt=prompt, negative=prompt[::-1], seed=3)
    path = tmp_path_factory.mktemp("x") / name
    assert media.read_recipe(media.save_image(path, PIXELS, recipe)) == recipe


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("word", ["word ", "猫🍎"])
def test_five_thousand_words_stay_whole(tmp_path, name, word):
    recipe = Recipe(prompt="".join(f"{word}{i} " for i in range(5000)), steps=3, seed=1)
    path = media.save_image(tmp_path / name, PIXELS, recipe)
    assert media.read_recipe(path) == recipe
    assert media.read_metadata(path)["parameters"].startswith(recipe.prompt[:1000])


def test_a_recipe_that_no_jpeg_can_hold_is_refused(tmp_path):
    noise = np.random.default_rng(0).bytes(100_000).hex()
    with pytest.raises(UsageError, match="save it as PNG or WebP"):
        media.save_image(tmp_path / "a.jpg", PIXELS, Recipe(prompt=noise))
    assert left(tmp_path) == []


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-16", "utf-8"])
def test_comments_in_every_byte_order(encoding):
    text = "ein Bär 猫\nSteps: 3, Seed: 1"
    assert exif.decode_comment(b"UNICODE\0" + text.encode(encoding)) == text
    assert exif.decode_comment(b"ASCII\0\0\0Steps: 3") == "Steps: 3"
    assert exif.decode_comment(b"") == "" and exif.decode_comment(7) == ""


def test_npz_holds_unrounded_values(tmp_path):
    pixels = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    path = media.save_npz(tmp_path / "a.npz", pixels, -pixels, RECIPE)
    with np.load(path) as data:
        assert np.array_equal(data["pixels"], pixels) and np.array_equal(data["latents"], -pixels)
        assert Recipe.from_json(str(data["diffgen"])) == RECIPE
    for target, array in (("b.npy", pixels), ("b.npz", pixels[0])):
        with pytest.raises(UsageError):
            media.save_npz(tmp_path / target, array, array)
    assert left(tmp_path) == ["a.npz"]


def test_names_and_formats(tmp_path):
    assert media.save_image(tmp_path / "a", PIXELS, format="jpg").name == "a.jpeg"
    assert media.save_image(tmp_path / "b.PNG", PIXELS, format="png").name == "b.PNG"
    for name, form, match in (
        ("c.pgn", None, "did you mean .png"),
        ("c", None, "accepted"),
        ("c", "gif", "accepted"),
        ("c.png", "webp", "named as png"),
    ):
        with pytest.raises(UsageError, match=match):
            media.save_image(tmp_path / name, PIXELS, format=form)
    with pytest.raises(UsageError, match="quality"):
        media.save_image(tmp_path / "c.jpg", PIXELS, quality=0)
    with pytest.raises(UsageError, match=r"cannot encode .*16500x1"):
        media.save_image(tmp_path / "c.webp", np.zeros((1, 16500, 3), np.uint8))
    assert left(tmp_path) == ["a.jpeg", "b.PNG"]


def picture(tmp_path, image: Image.Image, name="x.png", **options) -> Path:
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_load_flattens_turns_and_keeps_sixteen_bits(tmp_path):
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    assert np.allclose(media.load_image(picture(tmp_path, clear))[0, 0], [1, 127 / 255, 127 / 255])
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 255])
    assert np.allclose(media.load_image(picture(tmp_path, palette, transparency=0)), 1)
    grey = Image.fromarray(np.array([[0, 1, 65535]], np.uint16))
    assert np.allclose(media.load_image(picture(tmp_path, grey))[0, :, 0], [0, 1 / 65535, 1], atol=1e-9)
    turned = Image.new("RGB", (4, 2))
    turned.putpixel((0, 0), (255, 255, 255))
    mark = Image.Exif()
    mark[0x0112] = 6
    shown = media.load_image(picture(tmp_path, turned, exif=mark))
    assert shown.shape == (4, 2, 3) and shown[0, 1, 0] == 1
    for mode in ("1", "L", "LA", "CMYK", "YCbCr", "F"):
        name = "x.tif" if mode in ("F", "YCbCr", "CMYK") else "x.png"
        loaded = media.load_image(picture(tmp_path, Image.new(mode, (3, 2)), name))
        assert loaded.shape == (2, 3, 3) and loaded.dtype == np.float32


def test_unreadable_pictures_are_named(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    good = media.save_image(tmp_path / "good.png", PIXELS, RECIPE).read_bytes()
    (tmp_path / "cut.png").write_bytes(good[:-200])
    (tmp_path / "empty.png").write_bytes(b"")
    media.save_image(tmp_path / "good.jpg", PIXELS)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:-100])
    for name, cause in (
        ("text.png", "is not a picture"),
        ("empty.png", "is not a picture"),
        ("cut.png", "damaged or cut off"),
        ("cut.jpg", "damaged or cut off"),
        ("none.png", "there is no file"),
        (".", "cannot read"),
    ):
        with pytest.raises(UsageError, match=cause):
            media.load_image(tmp_path / name)
    with pytest.raises(UsageError, match="24x16, more than the 100 pixels"):
        media.load_image(tmp_path / "good.png", max_pixels=100)


def test_bombs_are_refused(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(side: int, *more: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IEND", b"")

    # Pillow itself warns between 89 and 179 million pixels and refuses what is larger.
    (tmp_path / "bomb.png").write_bytes(png(11_000))
    with pytest.raises(UsageError, match="more than the 100,000,000 pixels"), pytest.warns(Warning):
        media.load_image(tmp_path / "bomb.png")
    (tmp_path / "bomb.png").write_bytes(png(60_000))
    with pytest.raises(UsageError, match="too large"):
        media.load_image(tmp_path / "bomb.png")
    text = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"a" * 80_000_000, 1))
    (tmp_path / "text.png").write_bytes(png(1, text))
    with pytest.raises(UsageError):
        media.read_metadata(tmp_path / "text.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 10_000), st.binary(min_size=1, max_size=6))
def test_damaged_files_give_a_usage_error_or_a_picture(tmp_path_factory, name, at, junk):
    good = media.save_image(tmp_path_factory.mktemp("x") / name, PIXELS, RECIPE)
    data = bytearray(good.read_bytes())
    at %= len(data)
    data[at : at + len(junk)] = junk
    good.write_bytes(bytes(data))
    for read in (media.load_image, media.read_metadata, media.read_recipe):
        try:
            read(good)
        except UsageError as error:
            assert str(error)
