"""Samplers: exact where mathematics says so, equal to diffusers step by step, and blind to their neighbours."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from diffgen import noise as noises
from diffgen import samplers
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


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [("unipc", {"order": 7}, "order of sampler 'unipc' must be a whole number 1 to 3; got 7"),
     ("unipc", {"order": 1.5}, "must be a whole number 1 to 3; got 1.5"),
     ("unipc", {"variant": "bh3"}, "variant of sampler 'unipc' must be bh1 or bh2; got 'bh3'"),
     ("dpmpp_2m", {"variant": "bh1"}, "must be midpoint or heun; got 'bh1'"),
     ("deis", {"finish": "soft"}, "must be auto, lower or full; got 'soft'"),
     ("euler", {"s_churn": -1}, "must be at least 0; got -1"), ("tcd", {"gamma": 2}, "must be 0 to 1; got 2"),
     ("ddpm", {"eta": 1}, "takes no settings; got 'eta'"), ("ddim", {"eta": "much"}, "must be a number; got 'much'"),
     ("heun", {"s_chrn": 1}, "unknown setting 's_chrn' of sampler 'heun'; did you mean s_churn")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_in_one_sentence(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make(name, **settings)


@pytest.mark.parametrize("kind", ["fresh", "brownian"])
def test_churn_and_restart_draw_from_either_kind_of_noise(kind: Any) -> None:
    first, later = noises.sequence([5, 6], (2, 1, 1, 8, 8), kind=kind)
    alone, apart = noises.sequence([6], (1, 1, 1, 8, 8), kind=kind)
    for name, settings in (("heun", {"s_churn": 10.0}), ("restart", {"restarts": 2, "restart_steps": 3})):
        ends = []
        for start, noise in ((first, later()), (alone, apart())):
            x, history, sampler = start, History(), make(name, **settings)
            for step in steps_of(PATHS["vp"][0], levels("karras", PATHS["vp"][0], 8)):
                x = sampler(gaussian(0.3, 0.5), x, step, history, noise)
            ends.append(x)
        assert torch.allclose(ends[0][1:], ends[1], atol=1e-5) and 0.2 < float(ends[0].std()) < 0.8, name


def test_samplers_stay_readable() -> None:
    """No function over 40 lines, the step formula in one place, and no sampler that asks which path it is on."""
    folder = Path(samplers.__file__).parent
    for file in folder.glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno is not None and node.end_lineno - node.lineno < 40, (file.name, node.name)
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and file.name != "formulas.py":
                # sigma' / sigma is what the step formula begins with.
                assert "next_sigma / " not in ast.unparse(node), (file.name, ast.unparse(node))
            if isinstance(node, ast.Name):
                assert node.id not in {"FlowPath", "EDMPath", "DiscretePath", "isinstance"} or file.name == "settings.py"
