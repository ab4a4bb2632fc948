"""Names as people type them in other tools resolve to one pair, and wrong ones get the nearest right ones."""

from __future__ import annotations

import itertools

import pytest

from diffgen.errors import UsageError
from diffgen.samplers import SAMPLERS
from diffgen.schedules import SCHEDULES
from diffgen.spelling import canonical

A1111 = {
    "Euler": "euler", "Euler a": "euler_ancestral", "Heun": "heun", "LMS": "lms", "DPM2": "dpm_2",
    "DPM2 a": "dpm_2_ancestral", "DPM++ 2S a": "dpmpp_2s_ancestral", "DPM++ 2M": "dpmpp_2m", "DPM++ SDE": "dpmpp_sde",
    "DPM++ 2M SDE": "dpmpp_2m_sde", "DPM++ 3M SDE": "dpmpp_3m_sde", "DDIM": "ddim", "PLMS": "plms", "UniPC": "unipc",
    "LCM": "lcm", "DEIS": "deis",
}  # fmt: skip
COMFY = {
    "euler": "euler", "euler_ancestral": "euler_ancestral", "heun": "heun", "lms": "lms", "dpm_2": "dpm_2",
    "dpm_2_ancestral": "dpm_2_ancestral", "dpmpp_2s_ancestral": "dpmpp_2s_ancestral", "dpmpp_2m": "dpmpp_2m",
    "dpmpp_sde": "dpmpp_sde", "dpmpp_sde_gpu": "dpmpp_sde", "dpmpp_2m_sde": "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu": "dpmpp_2m_sde", "dpmpp_3m_sde": "dpmpp_3m_sde", "dpmpp_3m_sde_gpu": "dpmpp_3m_sde",
    "ddpm": "ddpm", "lcm": "lcm", "ipndm": "ipndm", "deis": "deis", "res_multistep": "res_multistep",
    "er_sde": "er_sde", "seeds_2": "seeds_2", "ddim": "ddim", "uni_pc": "unipc", "uni_pc_bh2": "unipc",
}  # fmt: skip
DIFFUSERS = {
    "DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "DEISMultistepScheduler": "deis",
    "DPMSolverMultistepScheduler": "dpmpp_2m", "DPMSolverSDEScheduler": "dpmpp_sde",
    "EulerAncestralDiscreteScheduler": "euler_ancestral", "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler", "FlowMatchHeunDiscreteScheduler": "heun",
    "HeunDiscreteScheduler": "heun", "IPNDMScheduler": "ipndm", "KDPM2DiscreteScheduler": "dpm_2",
    "KDPM2AncestralDiscreteScheduler": "dpm_2_ancestral", "LCMScheduler": "lcm", "LMSDiscreteScheduler": "lms",
    "PNDMScheduler": "plms", "TCDScheduler": "tcd", "UniPCMultistepScheduler": "unipc",
    "EDMEulerScheduler": "euler", "EDMDPMSolverMultistepScheduler": "dpmpp_2m",
}  # fmt: skip
PLAIN = {**A1111, **COMFY, **DIFFUSERS}
ENDINGS = {" Karras": "karras", "_karras": "karras", " exponential": "exponential", " SGM Uniform": "sgm_uniform"}
FUSED = {
    name + ending: (sampler, schedule)
    for (name, sampler), (ending, schedule) in itertools.product({**A1111, **COMFY}.items(), ENDINGS.items())
}


@pytest.mark.parametrize(("name", "sampler"), PLAIN.items())
def test_plain_names(name: str, sampler: str) -> None:
    for typed in (name, name.lower(), name.upper(), f" {name} "):
        assert canonical(typed)[:2] == (sampler, None)


def test_fused_names() -> None:
    assert len(PLAIN) + len(FUSED) >= 200
    for typed, pair in FUSED.items():
        assert canonical(typed)[:2] == pair, typed
        assert canonical(typed.lower())[:2] == pair, typed


def test_apart_and_fused_are_one_recipe() -> None:
    assert canonical("DPM++ 2M Karras") == canonical("dpmpp_2m", "Karras") == canonical("DPM++ 2M", "Automatic")
    assert canonical("Euler a", "Automatic")[1] == "normal"
    assert canonical("DPM++ 2M Karras", "beta")[1] == "beta"


def test_our_own_names_mean_themselves() -> None:
    for name in SAMPLERS:
        assert canonical(name) == (name, None, {})
    for name in SCHEDULES:
        assert canonical(None, name)[1] == name


WRONG = [
    f"{letter}{name[:cut]}{tail}"
    for letter, name, cut, tail in itertools.product(
        ("", "x"), ("dpmpp_2m", "euler", "heun", "unipc"), (3, 4), ("q", "zz", "_q9"))
] + ["", "karras", "DPM++ 9M"]  # fmt: skip


def test_wrong_names_are_refused_with_near_ones() -> None:
    assert len(WRONG) >= 50
    for name in WRONG:
        with pytest.raises(UsageError, match="accepted: ddim, ddpm"):
            canonical(name)
    with pytest.raises(UsageError, match="did you mean dpmpp_2m, "):
        canonical("dpmpp2mm")
    with pytest.raises(UsageError, match="did you mean karras"):
        canonical("euler", "karas")
