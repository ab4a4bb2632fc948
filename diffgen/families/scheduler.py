"""What a diffusers scheduler_config.json says of a checkpoint: its path, its prediction, its default walk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from diffgen.contracts import Defaults
from diffgen.errors import CheckpointError
from diffgen.path import DiscretePath, FlowPath, NoisePath, Prediction, betas_path

PREDICTION_NAMES: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}

SAMPLER_NAMES = {
    "DDIMScheduler": "ddim",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "EulerDiscreteScheduler": "euler",
    "HeunDiscreteScheduler": "heun",
    "LCMScheduler": "lcm",
    "PNDMScheduler": "plms",
    "UniPCMultistepScheduler": "unipc",
}
_OPEN_ENDED = {"DPMSolverMultistepScheduler", "UniPCMultistepScheduler"}
_SIGMA_SPACED = {"EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"}
# Students of few steps (turbo, lightning, LCM) are published with one of these.
_FEW_STEPS = {"EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "LCMScheduler"}
_STRETCHED = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}


def discrete_path(config: Mapping[str, Any]) -> DiscretePath:
    """The variance-preserving path of the config's betas."""
    if config.get("trained_betas") is not None:
        bars, bar = [], 1.0
        for beta in config["trained_betas"]:
            bar *= 1 - beta
            bars.append(bar)
        return DiscretePath(alphas_cumprod=tuple(bars))
    return betas_path(
        count=config.get("num_train_timesteps", 1000),
        start=config.get("beta_start", 0.0001),
        end=config.get("beta_end", 0.02),
        kind=config.get("beta_schedule", "linear"),
        zero_snr=config.get("rescale_betas_zero_snr", False),
    )


def prediction_of(config: Mapping[str, Any]) -> Prediction:
    """The prediction type.

    Raises:
        CheckpointError: it is none that diffgen knows.
    """
    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTION_NAMES:
        accepted = ", ".join(sorted(PREDICTION_NAMES))
        raise CheckpointError(f"the scheduler config has prediction_type {name!r}; accepted: {accepted}")
    return PREDICTION_NAMES[name]


def walk_of(config: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """(sampler, schedule, schedule settings) that step as the configured diffusers scheduler does."""
    kind = config.get("_class_name", "")
    sampler = SAMPLER_NAMES.get(kind, Defaults().sampler)
    if kind == "DPMSolverMultistepScheduler" and config.get("algorithm_type", "").startswith("sde"):
        sampler = "dpmpp_2m_sde"
    spacing = config.get("timestep_spacing", "leading" if kind in {"DDIMScheduler", "PNDMScheduler"} else "linspace")
    if kind == "LCMScheduler":
        # Its own steps are every k-th of 50 trailing ones: the same where the steps divide 50, else 10 indices off.
        spacing = "trailing"
    settings: dict[str, Any] = {}
    if spacing == "leading" and config.get("steps_offset"):
        settings["offset"] = config["steps_offset"]
    if config.get("set_alpha_to_one") is False or config.get("final_sigmas_type") == "sigma_min":
        settings["final"] = "min"
    stretched = next((name for key, name in _STRETCHED.items() if config.get(key)), None)
    if stretched:
        settings["span"] = spacing if kind in _SIGMA_SPACED else "path"
        return sampler, stretched, settings
    if kind in _SIGMA_SPACED and spacing in {"linspace", "trailing"}:
        settings["start"] = "sigma"
    if spacing == "linspace" and kind in _OPEN_ENDED:
        spacing = "linspace_open"
    return sampler, spacing, settings


def read(config: Mapping[str, Any]) -> tuple[NoisePath, Prediction, Defaults]:
    """(path, prediction, defaults) of a checkpoint whose scheduler walks a variance-preserving path."""
    sampler, schedule, settings = walk_of(config)
    prediction = prediction_of(config)
    defaults = Defaults(sampler=sampler, schedule=schedule, settings=settings)
    if schedule == "trailing" and prediction == "epsilon" and config.get("_class_name") in _FEW_STEPS:
        # An ordinary model that predicts noise starts below pure noise; only a student of few steps trails.
        defaults = replace(defaults, steps=4, guidance=1.0)
    return discrete_path(config), prediction, defaults


def flow_path(config: Mapping[str, Any]) -> FlowPath:
    """The straight path of a flow model whose schedules end at its first training level.

    That level is already shifted where the shift is fixed, and `schedules` shifts it once more: so do Stability's
    own sampler, ComfyUI and diffusers.
    """
    first = 1 / config.get("num_train_timesteps", 1000)
    shift = 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift", 1.0))
    return FlowPath(min_level=shift * first / (1 + (shift - 1) * first))


def flow_shift(
    config: Mapping[str, Any], *, token: int, frame: int = 1
) -> Callable[[int, int, int, int], Mapping[str, float]]:
    """`Defaults.sized` for a flow model: its shift, fixed or growing with the picture.

    A fixed shift goes this way too, because it belongs to the model: a schedule of the user's own keeps it.
    The growing one is exp of a line through (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift)
    in the number of image tokens (2403.03206, section 5.3.2).

    Args:
        token: pixels a token along height and width.
        frame: frames a token in time.
    """
    if not config.get("use_dynamic_shifting"):
        fixed = float(config.get("shift", 1.0))
        return lambda width, height, frames, steps: {"shift": fixed}
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    linear = config.get("time_shift_type", "exponential") == "linear"

    def sized(width: int, height: int, frames: int, steps: int) -> Mapping[str, float]:
        tokens = (width // token) * (height // token) * ((frames - 1) // frame + 1)
        mu = base + (top - base) * (tokens - low) / (high - low)
        return {"shift": mu if linear else math.exp(mu)}

    return sized
