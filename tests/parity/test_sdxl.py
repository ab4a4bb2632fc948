"""SDXL, its refiner, its inpainting variant and its few-step presets against diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import diffgen
from diffgen.errors import CheckpointError, UnsupportedError, UsageError
from diffgen.families.common import Parts
from diffgen.families.stable_diffusion import kind_of
from tests import tiny_a
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat"
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sdxl(tmp_path_factory.mktemp("refiner"), pipeline="StableDiffusionXLImg2ImgPipeline", refiner=True)


@pytest.mark.parametrize(("guidance", "seeds", "size"), [(5.0, [3, 4, 5], (48, 80)), (1.0, [7], (64, 64))])
def test_draws_the_reference_picture(guidance: float, seeds: list[int], size: tuple[int, int], base: Path) -> None:
    want, pixels = reference(
        base, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=6, guidance_scale=guidance,
        width=size[0], height=size[1],
    )  # fmt: skip
    got, mine = ours(base, seeds, PROMPT, negative=NEGATIVE, steps=6, guidance=guidance, size=size)
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_an_empty_negative_means_zeros(base: Path) -> None:
    want, _ = reference(base, [1], PROMPT, num_inference_steps=4, guidance_scale=5.0, width=64, height=64)
    got, _ = ours(base, [1], PROMPT, steps=4, guidance=5.0)
    assert difference(got, want) < TOLERANCE


@pytest.mark.parametrize(
    ("sampler", "steps"), [("euler_ancestral", 4), ("euler_ancestral", 1), ("euler", 4), ("lcm", 5)]
)
def test_few_step_checkpoints_bring_their_preset(sampler: str, steps: int, tmp_path: Path) -> None:
    kind, options = {
        "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
        "euler_ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
        "lcm": ("LCMScheduler", {"set_alpha_to_one": True}),
    }[sampler]
    folder = tiny_a.sdxl(tmp_path, scheduler=getattr(diffusers, kind)(**options, **BETAS))
    defaults = diffgen.load(folder).family.defaults
    assert (defaults.sampler, defaults.schedule, defaults.steps, defaults.guidance) == (sampler, "trailing", 4, 1.0)
    want, pixels = reference(
        folder, [5], PROMPT, num_inference_steps=steps, guidance_scale=0.0, width=64, height=64
    )
    got, mine = ours(folder, [5], PROMPT, steps=steps)
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


@pytest.mark.parametrize(("guidance", "seeds"), [(5.0, [3, 4, 5]), (1.0, [7])])
def test_the_refiner_is_told_aesthetic_scores(guidance: float, seeds: list[int], refiner: Path) -> None:
    model = diffgen.load(refiner)
    assert model.family.name == "sdxl-refiner" and "text_to_image" not in model.family.caps
    got, mine = tiny_a.attached(
        refiner, "image_to_image", seeds, PROMPT, {}, negative=NEGATIVE, steps=5, guidance=guidance, size=(48, 64)
    )
    noise = torch.cat([torch.randn(1, 4, 8, 6, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **BETAS)
    scheduler.set_timesteps(5)
    want, pixels = reference(
        refiner, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=guidance,
        strength=1.0, image=[tiny_a.pil(tiny_a.picture(48, 64))] * len(seeds),
        latents=noise * scheduler.init_noise_sigma,
    )  # fmt: skip
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_inpainting_takes_the_mask_and_what_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_a.sdxl(tmp_path, pipeline="StableDiffusionXLInpaintPipeline", in_channels=9)
    image, hole = tiny_a.picture(48, 64), tiny_a.mask(48, 64)
    got, mine = tiny_a.attached(
        folder, "inpaint", [3, 4], PROMPT, {"image": image, "mask": hole}, negative=NEGATIVE, steps=5, guidance=5.0,
        size=(48, 64),
    )  # fmt: skip
    deterministic(monkeypatch)
    want, pixels = reference(
        folder, [3, 4], PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=5.0, strength=1.0,
        image=tiny_a.pil(image), mask_image=tiny_a.pil(hole), width=48, height=64,
    )  # fmt: skip
    assert difference(got, want) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers samples a conditioning picture's latents from the picture's seed; diffgen takes their mode."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Latents

    monkeypatch.setattr(Latents, "sample", lambda self, generator=None: self.mode())


def test_clip_skip_counts_layers_in_both_encoders(base: Path) -> None:
    want, _ = reference(base, [2], PROMPT, num_inference_steps=3, guidance_scale=1.0, clip_skip=1, width=64, height=64)
    got, _ = ours(base, [2], PROMPT, steps=3, guidance=1.0, settings={"clip_skip": 3})
    assert difference(got, want) < TOLERANCE
    with pytest.raises(UsageError, match="clip skip must be 1 to 3"):
        diffgen.load(base).family.encode_text(["a"], clip_skip=4)


def test_long_prompts_keep_both_encoders_in_step(base: Path) -> None:
    cond, notes = diffgen.load(base).family.encode_text(["red apple " * 60, ""])
    assert cond.text["hidden"].shape == (2, 154, 56) and not notes
    assert not cond.text["hidden"][1].any() and not cond.text["pooled"][1].any()


def test_half_precision_decodes_in_float32_where_the_autoencoder_says_so(base: Path) -> None:
    family: Any = diffgen.load(base, dtype="float16").family
    z = torch.randn(1, 4, 1, 8, 8)
    before = family.vae.state_dict()["decoder.conv_in.weight"].clone()
    with torch.inference_mode():
        half = family.decode(z)
    wide = diffgen.load(base).family.decode(z)
    assert torch.equal(before, family.vae.state_dict()["decoder.conv_in.weight"])
    assert np.abs(half.numpy() - wide.detach().numpy()).max() < 5e-3


def test_refuses_what_it_cannot_draw(base: Path, refiner: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sdxl takes no picture; given: mask"):
        diffgen.load(base).family.attach(diffgen.load(base).family.encode_text(["a"])[0], {"mask": torch.zeros(1)})
    with pytest.raises(UnsupportedError, match="sdxl-refiner cannot do text_to_image"):
        ours(refiner, [1], PROMPT)
    edm = tiny_a.sdxl(tmp_path, scheduler=diffusers.EDMEulerScheduler())
    with pytest.raises(CheckpointError, match="EDM path"):
        diffgen.load(edm)
    family: Any = diffgen.load(base).family
    family.unet.register_to_config(time_cond_proj_dim=32)
    with pytest.raises(CheckpointError, match="takes the guidance scale as an input"):
        kind_of(Parts(origin=base, index={}, components={"unet": family.unet, "vae": family.vae}))
