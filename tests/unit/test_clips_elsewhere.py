"""Other people's readers open what diffgen writes: imageio, which pipelines use most, finds every frame."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from diffgen.media import save_clip


@pytest.mark.parametrize(
    ("extension", "plugin"),
    [(".mp4", "pyav"), (".webm", "pyav"), (".gif", "pillow"), (".webp", "pillow"), (".apng", "pillow")],
)
def test_imageio_reads_every_frame_in_its_place(tmp_path: Path, extension: str, plugin: str) -> None:
    path = tmp_path / f"clip{extension}"
    greys = [20, 90, 160, 230]
    save_clip(path, (np.full((50, 70, 3), grey, np.uint8) for grey in greys), fps=12)
    found = iio.imread(
        path, plugin=plugin, **({"mode": "RGB"} if plugin == "pillow" else {}), index=None if plugin == "pyav" else ...
    )
    assert found.shape == (4, 50, 70, 3)
    assert np.abs(found.mean((1, 2, 3)) - greys).max() < 4


def test_imageio_reads_the_rate_of_a_movie(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    save_clip(path, (np.full((50, 70, 3), 100, np.uint8) for _ in range(17)), fps=23.976)
    told = iio.immeta(path, plugin="pyav")
    assert told["codec"] == "h264"
    assert told["fps"] == pytest.approx(24000 / 1001)
    assert iio.improps(path, plugin="pyav").shape == (17, 50, 70, 3)
