"""`diffgen video`, from its arguments to the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffgen.app.cli import run
from diffgen.media import save_image


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_clips

    return tiny_clips.wan(tmp_path_factory.mktemp("wan"))


def test_a_clip_becomes_arrays(wan: Path, tmp_path: Path) -> None:
    file = tmp_path / "clip.npz"
    command = ["video", "a cat", "--frames", "5", "--size", "32x48", "--steps", "2", "--seed", "3", "--model", str(wan)]
    assert run([*command, "-o", str(file)]) == 0
    with np.load(file) as data:
        assert data["pixels"].shape == (1, 5, 48, 32, 3) and data["pixels"].dtype == np.float32
        assert data["pixels"].min() >= 0 and data["pixels"].max() <= 1
    assert run([*command, "-o", str(file)]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--frames", "6"], "6 frames cannot be drawn"),
        (["--frames", "0"], "frames must be at least 1"),
        (["--fps", "0"], "fps must be above 0"),
        (["-o", "clip.mp4"], "written as .npz"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    picture = save_image(tmp_path / "first.png", np.zeros((32, 32, 3), np.uint8))
    given = [str(picture) if part == "PICTURE" else part for part in arguments]
    assert run(["video", "a cat", "--model", str(wan), *given]) == 2
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told
    assert not list(tmp_path.glob("*.npz"))
