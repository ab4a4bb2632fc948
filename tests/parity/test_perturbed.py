"""Guidance from weakened branches: PAG equals diffusers' pipeline, and every patch leaves the network as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import UnsupportedError, UsageError
from diffgen.perturbation import attention, without_blocks
from diffgen.pipelines import Picture, text_to_image
from tests.parity.harness import difference

ASKED = dict(prompt="photo of a red apple", negative="blue", seed=7, steps=5, size=(64, 64))


def draw(model: Model, guidance: float = 5.0, **options: Any) -> Picture:
    return text_to_image(model, guidance=guidance, **ASKED, **options)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_perturbed_attention_is_the_references(sd_folder: Path, guidance: float) -> None:
    pipe = diffusers.StableDiffusionPAGPipeline.from_pretrained(
        sd_folder, pag_applied_layers=["mid"], safety_checker=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        ASKED["prompt"], negative_prompt=ASKED["negative"], num_inference_steps=5, guidance_scale=guidance,
        pag_scale=2.5, generator=torch.Generator("cpu").manual_seed(7), output_type="np",
    ).images[0]  # fmt: skip
    got = draw(diffgen.load(sd_folder), guidance=guidance, settings={"pag_scale": 2.5})
    assert difference(got.pixels, want) < 1e-4


def test_a_perturbed_run_leaves_no_trace(sd_folder: Path) -> None:
    model = diffgen.load(sd_folder)
    plain = draw(model)
    for name in ("pag", "seg"):
        other = draw(model, settings={f"{name}_scale": 3.0})
        assert np.abs(other.pixels - plain.pixels).max() > 1e-4
    assert np.array_equal(draw(model).pixels, plain.pixels)
    neutral = draw(model, settings={"pag_scale": 0.0})
    assert np.array_equal(neutral.pixels, plain.pixels)


def transformer() -> torch.nn.Module:
    return diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16, out_channels=4,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip


@torch.inference_mode()
@pytest.mark.parametrize("patch", [without_blocks(["1"]), attention("identity", ["1"]), attention("smooth", ["0"])])
def test_transformer_blocks_are_weakened_and_restored(patch: object) -> None:
    net = transformer()
    given = dict(hidden_states=torch.randn(1, 4, 8, 8), encoder_hidden_states=torch.randn(1, 5, 16),
                 pooled_projections=torch.randn(1, 16), timestep=torch.tensor([500.0]))  # fmt: skip
    before = net(**given).sample
    with patch({"denoiser": net}):  # type: ignore[operator]
        assert not torch.allclose(net(**given).sample, before)
    assert torch.equal(net(**given).sample, before)


def test_layers_that_are_not_there_are_refused(sd_folder: Path) -> None:
    model = diffgen.load(sd_folder)
    with pytest.raises(UsageError, match="slg_layers"):
        draw(model, settings={"slg_scale": 1.0})
    with pytest.raises(UnsupportedError, match="no row of transformer blocks"):
        draw(model, settings={"slg_scale": 1.0, "slg_layers": [1]})
    wrong = attention("identity", ["9"])({"denoiser": transformer()})
    with pytest.raises(UsageError, match="numbers from 0 to 2; got '9'"):
        wrong.__enter__()
