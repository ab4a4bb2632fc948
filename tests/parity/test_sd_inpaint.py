"""Stable Diffusion's inpainting and InstructPix2Pix variants against diffusers' own pipelines."""

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
from tests.parity.test_sdxl import deterministic
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat"
# The tiny checkpoints keep DDIM, whose steps are diffgen's own default for them.


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sd_variant(tmp_path_factory.mktemp("inpaint"), "StableDiffusionInpaintPipeline")


@pytest.fixture(scope="module")
def edit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sd_variant(tmp_path_factory.mktemp("edit"), "StableDiffusionInstructPix2PixPipeline")


@pytest.mark.parametrize(("guidance", "seeds", "size"), [(7.5, [3, 4, 5], (48, 80)), (1.0, [7], (64, 64))])
def test_inpainting_draws_the_reference_picture(
    guidance: float, seeds: list[int], size: tuple[int, int], inpaint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, hole = tiny_a.picture(*size), tiny_a.mask(*size)
    got, mine = tiny_a.attached(
        inpaint, "inpaint", seeds, PROMPT, {"image": image, "mask": hole}, negative=NEGATIVE, steps=6,
        guidance=guidance, size=size,
    )  # fmt: skip
    deterministic(monkeypatch)
    want, pixels = reference(
        inpaint, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, guidance_scale=guidance,
        image=tiny_a.pil(image), mask_image=tiny_a.pil(hole), width=size[0], height=size[1],
    )  # fmt: skip
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize(
    ("guidance", "faithful", "seeds", "size"), [(7.5, 1.2, [3, 4, 5], (48, 80)), (1.0, 1.5, [7], (64, 64))]
)
def test_editing_draws_the_reference_picture(
    guidance: float, faithful: float, seeds: list[int], size: tuple[int, int], edit: Path
) -> None:
    image = tiny_a.picture(*size)
    got, mine = tiny_a.attached(
        edit, "edit", seeds, PROMPT, {"reference": image}, negative=NEGATIVE, steps=6, guidance=guidance, size=size,
        settings={"image_guidance": faithful},
    )  # fmt: skip
    want, pixels = reference(
        edit, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, guidance_scale=guidance,
        image_guidance_scale=faithful, image=[tiny_a.pil(image)] * len(seeds),
    )  # fmt: skip
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


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
