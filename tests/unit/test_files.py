"""Files are whole or not there, never clobbered, and have usable names."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgen import media
from diffgen.errors import DiffgenError, UsageError
from diffgen.media import files
from diffgen.media.files import FileTaken, new_file, next_free_path, readable_name
from diffgen.recipe import Recipe

PIXELS = (np.arange(24 * 16 * 3, dtype=np.uint8) % 251).reshape(16, 24, 3)
RECIPE = Recipe(
    prompt="猫 🍎 ein Bär\nnew line", negative="“bad”", seed=7, steps=3, versions={"diffgen": "0.1.0"}
)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_overwritten_without_being_told(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"mine")
    with pytest.raises(FileTaken, match=r"a\.png exists already"):
        media.save_image(path, PIXELS)
    with pytest.raises(FileTaken):
        files.check_writable(path)
    assert path.read_bytes() == b"mine" and left(tmp_path) == ["a.png"]
    media.save_image(path, PIXELS, overwrite=True)
    assert media.load_image(path).shape == (16, 24, 3)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileTaken):
        media.save_image(tmp_path / "dangling.png", PIXELS)


@pytest.mark.parametrize("links", [True, False])
def test_of_many_writers_exactly_one_wins(tmp_path, monkeypatch, links):
    # All writers pass the early check before any has written, so only the last step can tell them apart.
    monkeypatch.setattr(files, "_refuse_taken", lambda path, overwrite: None)
    if not links:
        monkeypatch.setattr(os, "link", fail_with(errno.EPERM))

    def write(number: int) -> bool:
        try:
            with new_file(tmp_path / "a.bin") as file:
                file.write(bytes([number]) * 5000)
        except FileTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(24)))
    assert won.count(True) == 1 and left(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == bytes([won.index(True)]) * 5000


def fail_with(number: int):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("links", "step"), [(True, "fsync"), (True, "link"), (False, "fsync"), (False, "replace")]
)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, links, step):
    if not links:
        monkeypatch.setattr(os, "link", fail_with(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, step, fail_with(errno.ENOSPC))
    with pytest.raises(DiffgenError, match=r"cannot write .*a\.png: the disk is full") as caught:
        media.save_image(tmp_path / "a.png", PIXELS, RECIPE)
    assert caught.value.exit_code == 1 and left(tmp_path) == []


def test_a_file_system_without_links_works(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", fail_with(errno.EOPNOTSUPP))
    assert media.read_recipe(media.save_image(tmp_path / "a.png", PIXELS, RECIPE)) == RECIPE
    with pytest.raises(FileTaken):
        media.save_image(tmp_path / "a.png", PIXELS)
    assert left(tmp_path) == ["a.png"]


def test_a_disk_that_fills_while_writing_leaves_the_old_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    path = tmp_path / "a.png"
    with pytest.raises(DiffgenError, match="the disk is full"), new_file(path, overwrite=True) as file:
        file.write(b"half")
        fail_with(errno.ENOSPC)()
    with pytest.raises(KeyboardInterrupt), new_file(path, overwrite=True):
        raise KeyboardInterrupt
    assert left(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is a Linux device")
def test_a_real_enospc(tmp_path, monkeypatch):
    # The kernel's own error, from the flush of a real write.
    real = open
    monkeypatch.setattr("builtins.open", lambda name, mode: real("/dev/full", "wb"))
    with pytest.raises(DiffgenError, match="the disk is full"):
        media.save_image(tmp_path / "a.png", PIXELS)
    assert left(tmp_path) == []


@pytest.mark.parametrize("save", [lambda p: media.save_image(p, PIXELS), files.check_writable])
def test_places_that_cannot_be_written(tmp_path, monkeypatch, save):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dir.png").mkdir()
    for name, cause in (
        ("file/a.png", "is a file, not a folder"),
        ("file/b/a.png", "is a file, not a folder"),
        ("dir.png", "that is a folder"),
        ("x" * 300 + ".png", "the name is too long"),
    ):
        with pytest.raises(UsageError, match=cause):
            save(tmp_path / name)
    monkeypatch.setattr("builtins.open", fail_with(errno.EROFS))
    with pytest.raises(UsageError, match="read-only"):
        save(tmp_path / "a.png")
    monkeypatch.undo()
    assert left(tmp_path) == ["dir.png", "file"]


def test_free_paths_and_readable_names(tmp_path):
    assert next_free_path(tmp_path, "a", "png").name == "a.png"
    for name in ("a.png", "a-2.png"):
        (tmp_path / name).write_bytes(b"")
    assert next_free_path(tmp_path, "a", ".png").name == "a-3.png"
    assert readable_name("3D emoji, of a (red:1.2) Apple!", 7) == "3d-emoji-of-a-red-1-2-apple-7"
    assert readable_name("../../etc/passwd\0") == "etc-passwd"
    assert readable_name("猫とリンゴ", 1) == "猫とリンゴ-1"
    assert readable_name("हिन्दी") == "हिन्दी"
    assert readable_name("🍎 !!", 3) == "picture-3"
    assert readable_name("word " * 100) == "-".join(["word"] * 12)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_names_are_always_usable(prompt):
    name = readable_name(prompt, 2**64)
    assert 0 < len(name.encode()) < 220 and not set(name) & set('/\\\0:. \n<>|?*"')
