"""Lumina 2 against diffusers' own pipeline: same weights, same seeds, same latents and pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.errors import UnsupportedError, UsageError
from tests import tiny_b
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "photo of a red apple", "a blue cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_b.lumina2(tmp_path_factory.mktemp("lumina2"))


@pytest.mark.parametrize(("guidance", "seeds", "size"), [(4.0, [3, 4, 5], (48, 64)), (1.0, [7], (64, 64))])
def test_draws_the_reference_picture(guidance: float, seeds: list[int], size: tuple[int, int], folder: Path) -> None:
    want, pixels = reference(
        folder, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, guidance_scale=guidance,
        width=size[0], height=size[1],
    )  # fmt: skip
    got, mine = ours(folder, seeds, PROMPT, negative=NEGATIVE, steps=6, guidance=guidance, size=size)
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_encode_is_the_inverse_of_decode_in_scale(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    pixels = torch.rand(1, 3, 1, 64, 64) * 2 - 1
    config = family.vae.config
    want = (family.vae.encode(pixels[:, :, 0]).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    assert torch.allclose(family.encode(pixels)[:, :, 0], want, atol=1e-6)


def test_refuses_what_it_cannot_use(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    cond, notes = family.encode_text(["a red apple " * 150])
    assert "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="lumina2 takes no picture; given: image"):
        family.attach(cond, {"image": torch.zeros(1, 3, 1, 64, 64)})
    with pytest.raises(UnsupportedError, match="no setting 'clip_skip'"):
        family.encode_text(["a cat"], clip_skip=2)


def test_only_the_positive_prompt_follows_the_system_prompt(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    both, _ = family.encode_text(["a cat", "a cat"])
    assert both.text["mask"].sum(1).tolist()[0] > 100 > both.text["mask"].sum(1).tolist()[1]
