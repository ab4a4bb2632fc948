"""The model in the box, loaded by diffusers unchanged and by diffgen: the same picture, with the box's own defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import diffgen.assets
from diffgen.checkpoints import load
from tests.parity.test_stable_diffusion import TOLERANCE, difference, ours, theirs

BOX = Path(next(iter(diffgen.assets.__path__))) / "box"


def test_diffusers_draws_the_same_picture_from_the_box() -> None:
    defaults = load().family.defaults
    want, pixels = theirs(
        BOX, None, [7], prompt="3d emoji of a red apple", num_inference_steps=defaults.steps,
        guidance_scale=defaults.guidance,
    )  # fmt: skip
    got, mine = ours(BOX, [7], prompt="3d emoji of a red apple")
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_the_box_is_small_and_its_pictures_are_not_blank() -> None:
    size = sum(file.stat().st_size for file in BOX.rglob("*") if file.is_file())
    assert size <= 40_000_000
    _, pixels = ours(BOX, [7], prompt="3d emoji of a red apple")
    background, spread = pixels[0, :4, :4], float(pixels.std())
    assert float(np.min(background)) > 0.9 and spread > 0.1
