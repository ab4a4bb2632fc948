"""Stable Diffusion's inpainting and InstructPix2Pix variants: what they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.contracts import Branch, Step
from diffgen.errors import CheckpointError, UnsupportedError, UsageError
from tests import tiny, tiny_a
from tests.tiny_b import ours

PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat"


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sd_variant(tmp_path_factory.mktemp("inpaint"), "StableDiffusionInpaintPipeline")


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sd_variant(tmp_path_factory.mktemp("edit"), "StableDiffusionInstructPix2PixPipeline")


def test_refuses_what_it_cannot_draw(inpaint: Path, edit: Path, sd_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="stable-diffusion-inpaint cannot do text_to_image"):
        ours(inpaint, [1], PROMPT)
    plain: Any = diffgen.load(sd_folder).family
    cond, _ = plain.encode_text(["a"])
    with pytest.raises(UsageError, match="takes no picture; given: reference"):
        plain.attach(cond, {"reference": torch.zeros(1, 3, 1, 64, 64)})
    with pytest.raises(UsageError, match="takes image, mask; given: image"):
        diffgen.load(inpaint).family.attach(cond, {"image": torch.zeros(1, 3, 1, 64, 64)})
    with pytest.raises(UsageError, match="unknown setting .* 'image_guidance'"):
        ours(sd_folder, [1], PROMPT, settings={"image_guidance": 1.5})
    with pytest.raises(CheckpointError, match="takes 1 channels beside the latents"):
        diffgen.load(tiny.stable_diffusion(tmp_path, in_channels=5))


def test_a_network_without_its_pictures_says_so(edit: Path) -> None:
    family = diffgen.load(edit).family
    branch = Branch(name="positive", cond=family.encode_text(["a"])[0])
    with pytest.raises(UsageError, match="takes 8 channels; got 4"):
        family.predict(torch.zeros(1, 4, 1, 8, 8), Step.between(family.path, 1.0, 0.0), branch, {})
    wide = replace(branch, cond=replace(branch.cond, concat=torch.zeros(1, 4, 1, 8, 10)))
    with pytest.raises(UsageError, match="has 10x8 latents; the drawn one has 8x8"):
        family.predict(torch.zeros(1, 4, 1, 8, 8), Step.between(family.path, 1.0, 0.0), wide, {})
