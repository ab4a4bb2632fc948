"""Z-Image against diffusers' own pipeline: same weights, same seeds, same latents and pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.errors import CheckpointError, UsageError
from tests import tiny_b
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "photo of a red apple, big and <round>", "a blue cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_b.z_image(tmp_path_factory.mktemp("z-image"))


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_b.z_image(tmp_path_factory.mktemp("z-image-dynamic"), shift=6.0, use_dynamic_shifting=True)


@pytest.mark.parametrize(("guidance", "seeds", "size"), [(4.0, [3, 4, 5], (48, 64)), (0.0, [7], (64, 64))])
def test_draws_the_reference_picture(guidance: float, seeds: list[int], size: tuple[int, int], folder: Path) -> None:
    want, pixels = reference(
        folder, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, guidance_scale=guidance,
        width=size[0], height=size[1],
    )  # fmt: skip
    got, mine = ours(folder, seeds, PROMPT, negative=NEGATIVE, steps=6, guidance=guidance, size=size)
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_a_shift_that_grows_with_the_size(dynamic: Path) -> None:
    want, _ = reference(
        dynamic, [7], PROMPT, negative_prompt=NEGATIVE, num_inference_steps=4, guidance_scale=2.0, width=96, height=64
    )
    got, _ = ours(dynamic, [7], PROMPT, negative=NEGATIVE, steps=4, guidance=2.0, size=(96, 64))
    assert difference(got, want) < TOLERANCE


def test_the_shift_tells_turbo_from_its_teacher(folder: Path, dynamic: Path) -> None:
    turbo, teacher = (diffgen.load(path).family.defaults for path in (folder, dynamic))
    assert (turbo.steps, turbo.guidance) == (8, 0.0)
    assert (teacher.steps, teacher.guidance) == (50, 5.0)


def test_encode_is_the_inverse_of_decode_in_scale(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    pixels, config = torch.rand(1, 3, 1, 64, 64) * 2 - 1, family.vae.config
    want = (family.vae.encode(pixels[:, :, 0]).latent_dist.mode() - config.shift_factor) * config.scaling_factor
    assert torch.allclose(family.encode(pixels)[:, :, 0], want, atol=1e-6)


def test_refuses_what_it_cannot_use(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    cond, notes = family.encode_text(["a red apple " * 200])
    assert cond.text["hidden"].shape[1] == 512 and "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="z-image takes no picture; given: image"):
        family.attach(cond, {"image": torch.zeros(1, 3, 1, 64, 64)})
    family.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match="no chat template"):
        replace(family).encode_text(["a cat"])
