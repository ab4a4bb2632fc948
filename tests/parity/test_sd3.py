"""Stable Diffusion 3 against diffusers' own pipeline: same weights, same seeds, same latents and pixels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import diffgen
from diffgen.errors import UsageError
from tests import tiny_a
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sd3(tmp_path_factory.mktemp("sd3"))


@pytest.mark.parametrize(("guidance", "seeds", "size"), [(7.0, [3, 4, 5], (48, 80)), (1.0, [7], (64, 64))])
def test_draws_the_reference_picture(guidance: float, seeds: list[int], size: tuple[int, int], folder: Path) -> None:
    want, pixels = reference(
        folder, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, guidance_scale=guidance,
        width=size[0], height=size[1],
    )  # fmt: skip
    got, mine = ours(folder, seeds, PROMPT, negative=NEGATIVE, steps=6, guidance=guidance, size=size)
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize("dynamic", [False, True])
def test_t5_may_be_missing_and_the_shift_may_grow(
    dynamic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_a.sd3(tmp_path, t5=False, use_dynamic_shifting=dynamic)
    # diffusers leaves absent parts out of the index, and then asks for them.
    load = partial(diffusers.StableDiffusion3Pipeline.from_pretrained, text_encoder_3=None, tokenizer_3=None)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", load)
    want, pixels = reference(
        folder, [3], PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=4.0, width=64, height=48
    )
    got, mine = ours(folder, [3], PROMPT, negative=NEGATIVE, steps=5, guidance=4.0, size=(64, 48))
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE
    assert "text_encoder_3" not in diffgen.load(folder).family.components


def test_encode_is_the_inverse_of_decode_in_scale_and_shift(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    pixels = tiny_a.picture(64, 64)
    with torch.inference_mode():
        z = family.encode(pixels)
        config, mode = family.vae.config, family.vae.encode(pixels[:, :, 0]).latent_dist.mode()
        assert torch.allclose(z[:, :, 0], (mode - config.shift_factor) * config.scaling_factor, atol=1e-6)
        assert torch.allclose(family.decode(z)[:, :, 0], family.vae.decode(mode).sample, atol=1e-5)


def test_a_schedule_of_the_users_own_keeps_the_models_shift(folder: Path) -> None:
    from diffgen.pipelines import prepare

    recipe = prepare(diffgen.load(folder), PROMPT, schedule="sgm_uniform", seed=1)[0]
    assert recipe.settings["shift"] == 3.0


def test_refuses_what_it_cannot_draw(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    _, notes = family.encode_text(["a red apple " * 150])
    assert "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="the longest is 128"):
        ours(folder, [1], PROMPT, size=(256, 64), steps=1)
    with pytest.raises(UsageError, match="multiples of 16"):
        ours(folder, [1], PROMPT, size=(72, 64), steps=1)
    with pytest.raises(UsageError, match="sd3 takes no picture; given: image"):
        family.attach(family.encode_text(["a"])[0], {"image": torch.zeros(1, 3, 1, 64, 64)})
