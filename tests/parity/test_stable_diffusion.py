"""The whole Stable Diffusion pipeline against diffusers: same weights, same seeds, same latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import diffgen
from diffgen.pipelines import text_to_image

TOLERANCE = 1e-4

# diffusers' scheduler and its options, and the same walk in diffgen's words.
WALKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}, dict(sampler="ddim", schedule="leading", settings={"offset": 1, "final": "min"})),
    "ddim trailing": (
        "DDIMScheduler", {"timestep_spacing": "trailing", "set_alpha_to_one": True},
        dict(sampler="ddim", schedule="trailing")),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"},
              dict(sampler="euler", schedule="leading", settings={"offset": 1, "final": "zero"})),
    "euler karras": (
        "EulerDiscreteScheduler", {"use_karras_sigmas": True, "timestep_spacing": "linspace"},
        dict(sampler="euler", schedule="karras", settings={"span": "linspace", "start": "sigma"})),
    "euler linspace": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"},
                       dict(sampler="euler", schedule="linspace", settings={"start": "sigma"})),
    "euler a": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading"},
                dict(sampler="euler_ancestral", schedule="leading", settings={"offset": 1, "final": "zero"})),
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "leading"},
             dict(sampler="heun", schedule="leading", settings={"offset": 1, "final": "zero"})),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"},
                 dict(sampler="dpmpp_2m", schedule="linspace_open")),
    "dpmpp_2m trailing": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"},
                          dict(sampler="dpmpp_2m", schedule="trailing")),
    "dpmpp_2m_sde": (
        "DPMSolverMultistepScheduler", {"timestep_spacing": "linspace", "algorithm_type": "sde-dpmsolver++"},
        dict(sampler="dpmpp_2m_sde", schedule="linspace_open", settings={"noise": "fresh"})),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "linspace"},
              dict(sampler="unipc", schedule="linspace_open")),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}, dict(sampler="plms", schedule="leading")),
    "lms": ("LMSDiscreteScheduler", {"timestep_spacing": "linspace"},
            dict(sampler="lms", schedule="linspace", settings={"start": "sigma"})),
    "dpm_2": ("KDPM2DiscreteScheduler", {"timestep_spacing": "leading"},
              dict(sampler="dpm_2", schedule="leading", settings={"offset": 1, "final": "zero"})),
    "deis": ("DEISMultistepScheduler", {"timestep_spacing": "linspace", "solver_order": 2},
             dict(sampler="deis", schedule="linspace_open", settings={"order": 2, "final": "min"})),
    "unipc 3": ("UniPCMultistepScheduler", {"timestep_spacing": "linspace", "solver_order": 3},
                dict(sampler="unipc", schedule="linspace_open", settings={"order": 3})),
    # Ending at sigma 0, diffusers' bh1 gives NaN: it multiplies an infinite B(h) with a difference of 0.
    "unipc bh1": (
        "UniPCMultistepScheduler",
        {"timestep_spacing": "linspace", "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        dict(sampler="unipc", schedule="linspace_open", settings={"variant": "bh1", "final": "min"})),
    "lcm": ("LCMScheduler", {"original_inference_steps": 50}, {}),
}  # fmt: skip


def theirs(folder: Path, scheduler: Any, seeds: list[int], **call: Any) -> tuple[np.ndarray, np.ndarray]:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    kept = {}

    def keep(_pipe: Any, _i: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept["latents"] = values["latents"].clone()
        return values

    prompt = call.pop("prompt")
    pixels = pipe(
        [prompt] * len(seeds), negative_prompt=[call.pop("negative", "")] * len(seeds), output_type="np",
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds], callback_on_step_end=keep, **call,
    ).images  # fmt: skip
    return kept["latents"].numpy(), pixels


def ours(folder: Path, seeds: list[int], **call: Any) -> tuple[np.ndarray, np.ndarray]:
    pictures = text_to_image(diffgen.load(folder), seed=seeds[0], count=len(seeds), batch=len(seeds), **call)
    return np.stack([p.latents[:, 0] for p in pictures]), np.stack([p.pixels for p in pictures])


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


@pytest.mark.parametrize("walk", [name for name in WALKS if name != "lcm"])
def test_every_sampler_draws_the_reference_picture(walk: str, sd_folder: Path) -> None:
    kind, options, mine = WALKS[walk]
    base = diffusers.StableDiffusionPipeline.load_config(sd_folder)
    assert base["_class_name"] == "StableDiffusionPipeline"

    class Configured:
        @staticmethod
        def from_config(config: Any) -> Any:
            return getattr(diffusers, kind).from_config(config, **options)

    want, pixels = theirs(
        sd_folder, Configured, [7], prompt="photo of a red apple", negative="blue", num_inference_steps=8,
        guidance_scale=5.0,
    )  # fmt: skip
    got, mine_pixels = ours(sd_folder, [7], prompt="photo of a red apple", negative="blue", steps=8, guidance=5.0, **mine)
    assert difference(got, want) < TOLERANCE
    assert difference(mine_pixels, pixels) < TOLERANCE


@pytest.mark.parametrize("guidance", [1.0, 6.5])
@pytest.mark.parametrize("kind", ["epsilon", "v"])
def test_the_checkpoints_own_walk_is_the_references(
    kind: str, guidance: float, sd_folder: Path, sd_v_folder: Path
) -> None:
    folder = sd_folder if kind == "epsilon" else sd_v_folder
    common = dict(prompt="a big green house", negative="a cat")
    want, pixels = theirs(
        folder, None, [3, 4, 5], num_inference_steps=8, guidance_scale=guidance, width=48, height=64, **common
    )
    got, mine_pixels = ours(folder, [3, 4, 5], steps=8, guidance=guidance, size=(48, 64), **common)
    assert difference(got, want) < TOLERANCE
    assert difference(mine_pixels, pixels) < TOLERANCE
