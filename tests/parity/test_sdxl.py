"""SDXL: the presets of its students, long prompts, half precision, and what it refuses."""

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
from tests.tiny_b import ours

PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat"
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sdxl(tmp_path_factory.mktemp("refiner"), pipeline="StableDiffusionXLImg2ImgPipeline", refiner=True)


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [
        ("euler_ancestral", "EulerAncestralDiscreteScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("lcm", "LCMScheduler"),
    ],
)
def test_few_step_checkpoints_bring_their_preset(sampler: str, kind: str, tmp_path: Path) -> None:
    spacing = {} if sampler == "lcm" else {"timestep_spacing": "trailing"}
    folder = tiny_a.sdxl(tmp_path, scheduler=getattr(diffusers, kind)(**spacing, **BETAS))
    defaults = diffgen.load(folder).family.defaults
    assert (defaults.sampler, defaults.schedule, defaults.steps, defaults.guidance) == (sampler, "trailing", 4, 1.0)


def test_clip_skip_beyond_the_layers_is_refused(base: Path) -> None:
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
