"""What other tools call our samplers, schedules and settings. Data and look-ups.

A name without a counterpart here is kept as it came, so that the error which follows names it.
Sources: the option lists of AUTOMATIC1111, ComfyUI, InvokeAI and NovelAI.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAMPLERS = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "heun": "Heun",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "dpm_fast": "DPM fast",
    "dpm_adaptive": "DPM adaptive",
    "lms": "LMS",
    "restart": "Restart",
    "unipc": "UniPC",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "plms": "PLMS",
    "lcm": "LCM",
    "deis": "DEIS",
    "ipndm": "IPNDM",
}
SCHEDULES = {
    "normal": "Normal",
    "karras": "Karras",
    "exponential": "Exponential",
    "polyexponential": "Polyexponential",
    "simple": "Simple",
    "sgm_uniform": "SGM Uniform",
    "ddim_uniform": "DDIM",
    "beta": "Beta",
    "kl_optimal": "KL Optimal",
    "ays": "Align Your Steps",
    "linspace": "Linspace",
    "linspace_open": "Linspace open",
    "leading": "Leading",
    "trailing": "Trailing",
    "even": "Even",
    "cosine": "Cosine",
    "linear_quadratic": "Linear Quadratic",
}
SETTINGS = {
    "clip_skip": "Clip skip",
    "strength": "Denoising strength",
    "eta": "Eta",
    "rho": "Schedule rho",
    "sigma_min": "Schedule min sigma",
    "sigma_max": "Schedule max sigma",
    "shift": "Shift",
}
# What "Automatic" means for a sampler in the web UI; for the others it is the plain spacing.
_AUTOMATIC = {
    "dpmpp_2m": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2s_ancestral": "karras",
    "dpm_2": "karras",
    "dpm_2_ancestral": "karras",
    "restart": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2m_sde_heun": "exponential",
    "dpmpp_3m_sde": "exponential",
}
_SAMPLER_OF = {shown.lower(): name for name, shown in SAMPLERS.items()}
# "Uniform" is the older label of the spacing that is now also called "Normal".
_SCHEDULE_OF = {shown.lower(): name for name, shown in SCHEDULES.items()} | {"uniform": "normal"}
_CODE_OF = {
    "euler_a": "euler_ancestral",
    "dpm_2_a": "dpm_2_ancestral",
    "kdpm_2": "dpm_2",
    "kdpm_2_a": "dpm_2_ancestral",
    "dpmpp_2": "dpmpp_2m",
    "dpmpp_2s": "dpmpp_2s_ancestral",
    "dpmpp_2s_a": "dpmpp_2s_ancestral",
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "pndm": "plms",
    "ddim_v3": "ddim",
}
_CODE_SCHEDULE_OF = {"native": "normal", "uniform": "normal", "align_your_steps": "ays"}


def from_a1111(shown: str) -> tuple[str, str | None]:
    """(sampler, schedule) for a label: ("dpmpp_2m", "karras") for the older, fused "DPM++ 2M Karras".

    A sampler we have no name for keeps the one it came with, so that the error which follows names it.
    """
    label, schedule = shown.strip(), None
    if label.lower() not in _SAMPLER_OF:
        for suffix in ("karras", "exponential"):
            if label.lower().endswith(" " + suffix):
                label, schedule = label[: -len(suffix) - 1].rstrip(), suffix
    return _SAMPLER_OF.get(label.lower(), label), schedule


def schedule_from_a1111(label: str, sampler: str) -> str:
    """Our schedule for A1111's "Schedule type"; "Automatic" depends on the sampler (our name)."""
    label = label.strip().lower()
    if label == "automatic":
        return _AUTOMATIC.get(sampler, "normal")
    return _SCHEDULE_OF.get(label, label)


def from_code(name: str) -> tuple[str, str | None]:
    """(sampler, schedule) for a name as ComfyUI, InvokeAI and NovelAI write it in their data.

    A leading "k_" and a trailing "_gpu" mean nothing to us; a trailing "_k" is InvokeAI's karras.
    """
    name, schedule = name.strip().lower().removeprefix("k_").removesuffix("_gpu"), None
    if name.endswith("_k"):
        name, schedule = name.removesuffix("_k"), "karras"
    return _CODE_OF.get(name, name), schedule


def schedule_from_code(name: str) -> str:
    """Our schedule for a name as ComfyUI and NovelAI write it in their data."""
    name = name.strip().lower()
    return _CODE_SCHEDULE_OF.get(name, name)


def name_samplers(fields: dict[str, Any], sampler: Any, schedule: Any) -> None:
    """Puts our names for a tool's two names into `fields`; what is no text is left out."""
    if isinstance(sampler, str):
        fields["sampler"], fields["schedule"] = from_code(sampler)
    if isinstance(schedule, str):
        fields["schedule"] = schedule_from_code(schedule)


def take(data: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Moves what is there and not null out of `data`: {our name: value}, from {their name: our name}."""
    return {ours: value for theirs, ours in names.items() if (value := data.pop(theirs, None)) is not None}
