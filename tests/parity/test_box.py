"""The model in the box, loaded by diffusers unchanged and by diffgen: the same picture, with the box's own defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import diffgen.assets
from diffgen.checkpoints import load
from diffgen.pipelines import text_to_image
from tests.parity.harness import Variant, agree, both

BOX = Path(next(iter(diffgen.assets.__path__))) / "box"


def test_diffusers_draws_the_same_picture_from_the_box() -> None:
    family = load().family
    variant = Variant(
        family="The box", variant="", make=lambda folder: folder, pipeline="StableDiffusionPipeline",
        sizes=(family.spec.size, (96, 64)), scales=(1.0, family.defaults.guidance), steps=family.defaults.steps,
        prompt="3d emoji of a red apple", negative="",
    )  # fmt: skip
    agree(*both(variant, BOX).draw((True, 1, 0)))


def test_the_box_is_small_and_its_pictures_are_not_blank() -> None:
    size = sum(file.stat().st_size for file in BOX.rglob("*") if file.is_file())
    assert size <= 40_000_000
    pixels = text_to_image(load(), "3d emoji of a red apple", seed=7)[0].pixels
    background, spread = pixels[:4, :4], float(pixels.std())
    assert float(np.min(background)) > 0.9 and spread > 0.1
