"""Every sampler through the whole Stable Diffusion pipeline, against the scheduler of diffusers that walks alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest

from tests.parity.harness import Variant, agree, both

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


@pytest.mark.parametrize("walk", [name for name in WALKS if name != "lcm"])
def test_every_sampler_draws_the_reference_picture(walk: str, sd_folder: Path) -> None:
    kind, options, mine = WALKS[walk]
    config = diffusers.DDIMScheduler.load_config(sd_folder / "scheduler")
    variant = Variant(
        family="Stable Diffusion", variant=walk, make=lambda folder: folder, pipeline="StableDiffusionPipeline", steps=8,
        components=lambda folder: {"scheduler": getattr(diffusers, kind).from_config(config, **options)}, options=mine,
    )  # fmt: skip
    agree(*both(variant, sd_folder).draw((True, 1, 0)))
