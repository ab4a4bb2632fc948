"""Samplers: exact where mathematics says so, equal to diffusers step by step, and blind to their neighbours."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from diffgen import noise as noises
from diffgen.contracts import History, Latents, Step, steps_of
from diffgen.errors import UsageError
from diffgen.path import EDMPath, FlowPath, betas_path, to_x0
from diffgen.samplers import SAMPLERS, make
from diffgen.schedules import ScheduleSettings, levels

PATHS = {
    "vp": (betas_path(), "karras"),
    "zero": (betas_path(zero_snr=True), "trailing"),
    "flow": (FlowPath(), "sgm_uniform"),
    "edm": (EDMPath(), "karras"),
}


def gaussian(mean: float, std: float) -> Any:
    """The exact denoiser of Gaussian data: E[x0 | x]."""

    def denoise(x: Latents, step: Step) -> Latents:
        variance = (step.alpha * std) ** 2 + step.sigma**2
        return mean + step.alpha * std**2 / variance * (x - step.alpha * mean)

    return denoise


def walk(name: str, path: str, count: int, x: Latents, denoise: Any, seeds: list[int] | None = None) -> Latents:
    kind, schedule = PATHS[path]
    steps = steps_of(kind, levels(schedule, kind, count))
    history, sampler = History(), make(name)
    seeds = seeds or list(range(x.shape[0]))
    _, later = noises.sequence(seeds, x.shape)
    noise = later()
    for step in steps:
        x = sampler(denoise, x, step, history, noise)
    return x


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_estimate_is_reached_exactly(name: str, path: str) -> None:
    goal = torch.linspace(-2, 2, 12).reshape(1, 3, 1, 2, 2)
    x = torch.randn(1, 3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(walk(name, path, 7, x, lambda x, step: goal), goal, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", [name for name, info in SAMPLERS.items() if not info.stochastic])
def test_the_exact_flow_of_gaussian_data(name: str, path: str) -> None:
    kind, schedule = PATHS[path]
    start = levels(schedule, kind, 200)[0]
    alpha, sigma = kind.coefficients(start)
    z = torch.randn(1, 4, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    total = math.sqrt((alpha * 0.5) ** 2 + sigma**2)
    x = alpha * 0.3 + total * z
    # The probability-flow ODE keeps each sample's quantile, so the same z comes out scaled to the data.
    tolerance = 0.025 if SAMPLERS[name].order > 1 else 0.06
    assert torch.allclose(walk(name, path, 200, x, gaussian(0.3, 0.5)), 0.3 + 0.5 * z, atol=tolerance)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_stochastic_samplers_reach_the_data_distribution(name: str) -> None:
    x = torch.randn(1, 1, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    made = walk(name, "vp", 120, x, gaussian(0.3, 0.5))
    assert made.mean() == pytest.approx(0.3, abs=0.04)
    assert made.std() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_of_a_batch_is_that_picture_alone(name: str) -> None:
    def denoise(x: Latents, step: Step) -> Latents:
        return torch.tanh(x) * step.alpha

    shape = (4, 3, 1, 4, 4)
    first, _ = noises.sequence([5, 6, 7, 8], shape)
    alone, _ = noises.sequence([7], (1, *shape[1:]))
    assert torch.equal(first[2:3], alone)
    batch = walk(name, "vp", 6, first, denoise, [5, 6, 7, 8])
    assert torch.allclose(batch[2:3], walk(name, "vp", 6, alone, denoise, [7]), atol=1e-6)


REFERENCES = {
    "euler": ("EulerDiscreteScheduler", {}, "linspace"),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}, "linspace"),
    "heun": ("HeunDiscreteScheduler", {}, "linspace"),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}, "linspace_open"),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "linspace_open"),
    "unipc": ("UniPCMultistepScheduler", {}, "linspace_open"),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}, "leading"),
    "lcm": ("LCMScheduler", {"original_inference_steps": 1000}, None),
}


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", REFERENCES)
def test_each_sampler_is_its_diffusers_counterpart(name: str, kind: str) -> None:
    import diffusers

    scheduler_name, options, schedule = REFERENCES[name]
    theirs = getattr(diffusers, scheduler_name)(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=kind, **options
    )
    theirs.set_timesteps(10)
    path = betas_path()
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) / 3

    def network(x: torch.Tensor, time: float) -> torch.Tensor:
        return torch.tanh(x @ weight) + time / 1000

    unit = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    x = unit * theirs.init_noise_sigma
    gen = torch.Generator().manual_seed(3)
    times = [float(time) for time in theirs.timesteps]
    for time in theirs.timesteps:
        out = network(theirs.scale_model_input(x, time), float(time))
        extra = {} if name in {"dpmpp_2m", "unipc", "heun", "ddim"} else {"generator": gen}
        x = theirs.step(out, time, x, **extra).prev_sample

    if schedule is None:
        walked = (*[path.level(time) for time in times], 0.0)
    else:
        walked = levels(schedule, path, 10, ScheduleSettings())
    start = "sigma" if name in {"euler", "euler_ancestral", "heun"} else "unit"
    mine = unit * (path.coefficients(walked[0])[1] if start == "sigma" else 1.0)
    own, history, sampler = torch.Generator().manual_seed(3), History(), make(name)
    prediction = "epsilon" if kind == "epsilon" else "v"
    for step in steps_of(path, walked):
        mine = sampler(
            lambda x, at: to_x0(prediction, network(x, at.t), x, at.alpha, at.sigma), mine, step, history,
            lambda step: torch.randn(2, 8, generator=own),
        )  # fmt: skip
    assert float((mine - x).abs().max() / max(1.0, float(x.abs().max()))) < 1e-4


def test_unknown_samplers_and_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean euler"):
        make("eulr")
    with pytest.raises(UsageError, match="unknown setting .rho. of sampler .dpmpp_2m_sde.; accepted: eta, finish"):
        make("dpmpp_2m_sde", rho=3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_zero_terminal_snr_does_not_blow_up(name: str) -> None:
    """Its first level is 4096 on the scale of sigma / alpha; a slope averaged over that step would be noise."""
    x = torch.randn(1, 4, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = walk(name, "zero", 8, x, gaussian(0.3, 0.5))
    assert float((made - 0.3).abs().max()) < 3.0
