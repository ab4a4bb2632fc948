"""Every sampler that diffusers has, against its scheduler: each step from the same input, and a whole run.

The network is one tiny random U-Net. Steps agree to 1e-5 of the largest value, whole runs too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from diffgen.contracts import History, Step, steps_of
from diffgen.path import DiscretePath, EDMPath, FlowPath, NoisePath, Prediction, to_x0
from diffgen.samplers import make

diffusers = pytest.importorskip("diffusers")
VP = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (1, 2, 8, 8)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scheduler of diffusers, and the sampler that is to equal it.

    Attributes:
        sampler, own: ours, with its settings.
        kind: what their x is: "unit" variance, or in "sigma" units, as k-diffusion's, or on a "flow" or "edm" path.
        calls: of their `step` for one of ours.
        last: where their walk ends: level 0, or the smallest trained level.
        extra: what their `step` is told.
    """

    scheduler: str
    sampler: str
    options: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    kind: str = "unit"
    calls: int = 1
    last: float = 0.0
    count: int = 10
    extra: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = [f"{key}={value}" for key, value in {**self.options, **self.extra}.items() if key not in VP]
        return "-".join([self.scheduler.removesuffix("Scheduler"), *said])


MIN = -1.0  # stands for the smallest trained level
DPM, UNI, DEIS = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"
SINGLE = "DPMSolverSinglestepScheduler"
CASES = [
    Case(scheduler="EulerDiscreteScheduler", sampler="euler", kind="sigma"),
    Case(scheduler="EulerAncestralDiscreteScheduler", sampler="euler_ancestral", kind="sigma"),
    Case(scheduler="HeunDiscreteScheduler", sampler="heun", kind="sigma", calls=2),
    Case(scheduler="KDPM2DiscreteScheduler", sampler="dpm_2", kind="sigma", calls=2),
    Case(scheduler="KDPM2AncestralDiscreteScheduler", sampler="dpm_2_ancestral", kind="sigma", calls=2),
    Case(scheduler="LMSDiscreteScheduler", sampler="lms", kind="sigma"),
    Case(scheduler="DPMSolverSDEScheduler", sampler="dpmpp_sde", kind="sigma", calls=2),
    *(Case(scheduler=DPM, sampler="dpmpp_2m", options={"solver_type": kind}, own={"variant": kind}, count=count)
      for kind, count in (("midpoint", 10), ("heun", 20))),
    *(Case(scheduler=DPM, sampler="dpmpp_2m_sde", own={"variant": kind},
           options={"algorithm_type": "sde-dpmsolver++", "solver_type": kind}) for kind in ("midpoint", "heun")),
    *(Case(scheduler=DPM, sampler="dpmpp_3m_sde", options={"solver_order": 3, "solver_type": "heun"},
           own={"eta": 0.0, "finish": "auto"}, count=count) for count in (10, 20)),
    Case(scheduler=SINGLE, sampler="dpmpp_2s", count=11),
    Case(scheduler=SINGLE, sampler="dpmpp_2s", options={"solver_order": 3, "solver_type": "heun"}, own={"order": 3, "variant": "heun"}),
    *(Case(scheduler=UNI, sampler="unipc", options={"solver_order": order, "solver_type": kind, "final_sigmas_type": end},
           own={"order": order, "variant": kind}, last=0.0 if end == "zero" else MIN)
      for order in (1, 2, 3) for kind, end in (("bh1", "sigma_min"), ("bh2", "zero"))),
    *(Case(scheduler=DEIS, sampler="deis", options={"solver_order": order}, own={"order": order}, last=MIN)
      for order in (1, 2, 3)),
    *(Case(scheduler="DDIMScheduler", sampler="ddim", options={"clip_sample": False}, own={"eta": eta},
           extra={"eta": eta}) for eta in (0.0, 0.5, 1.0)),
    Case(scheduler="DDPMScheduler", sampler="ddpm", options={"clip_sample": False}),
    Case(scheduler="PNDMScheduler", sampler="plms", options={"skip_prk_steps": True, "set_alpha_to_one": True}),
    Case(scheduler="IPNDMScheduler", sampler="ipndm",
         options={"trained_betas": [0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.0]}),
    Case(scheduler="SASolverScheduler", sampler="sa_solver", last=MIN,
         own={"order": 2, "corrector_order": 2, "variant": "simple", "finish": "lower"}),
    Case(scheduler="SASolverScheduler", sampler="sa_solver", last=MIN, options={"predictor_order": 3, "corrector_order": 3},
         own={"order": 3, "corrector_order": 3, "variant": "simple", "finish": "lower"}),
    Case(scheduler="LCMScheduler", sampler="lcm", count=8),
    Case(scheduler="TCDScheduler", sampler="tcd", count=8, last=MIN, extra={"eta": 0.3}, own={"gamma": 0.3}),
    Case(scheduler="EDMEulerScheduler", sampler="euler", kind="edm"),
    Case(scheduler="EDMDPMSolverMultistepScheduler", sampler="dpmpp_2m", kind="edm"),
    Case(scheduler="FlowMatchEulerDiscreteScheduler", sampler="euler", kind="flow"),
    Case(scheduler="FlowMatchHeunDiscreteScheduler", sampler="heun", kind="flow", calls=2),
    Case(scheduler="FlowMatchLCMScheduler", sampler="lcm", kind="flow"),
    Case(scheduler=UNI, sampler="unipc", kind="flow", options={"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
    Case(scheduler=DPM, sampler="dpmpp_2m", kind="flow", options={"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Callable[[Tensor, float], Tensor]:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        in_channels=2, out_channels=2, sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    return lambda x, time: unet(x, torch.tensor([time])).sample


class Angled(EDMPath):
    """IPNDM's own path: alpha^2 + sigma^2 = 1, and the network is told the angle."""

    def coefficients(self, level: float) -> tuple[float, float]:
        alpha = 1 / math.sqrt(1 + level * level)
        return alpha, level * alpha

    def time(self, level: float) -> float:
        return math.atan(level) / math.pi * 2


def scheduler_of(case: Case) -> Any:
    ordinary = case.kind in ("unit", "sigma") and case.scheduler != "IPNDMScheduler"
    theirs = getattr(diffusers, case.scheduler)(**(VP if ordinary else {}), **case.options)
    theirs.set_timesteps(case.count)
    return theirs


def walk_of(case: Case, theirs: Any) -> tuple[NoisePath, Prediction, list[float]]:
    """(path, prediction, levels) of their walk."""
    if case.kind in ("edm", "flow"):
        path: NoisePath = EDMPath() if case.kind == "edm" else FlowPath(whole="use_flow_sigmas" in case.options)
        return path, "flow", list(dict.fromkeys(float(sigma) for sigma in theirs.sigmas))
    if case.scheduler == "IPNDMScheduler":
        return Angled(), "v", [float(b / a) for b, a in zip(theirs.betas, theirs.alphas, strict=True)]
    discrete = DiscretePath(alphas_cumprod=tuple(theirs.alphas_cumprod.double().tolist()))
    times = dict.fromkeys(float(time) for time in theirs.timesteps[:: case.calls])
    last = discrete.min_level if case.last == MIN else case.last
    return discrete, "epsilon", [*(discrete.level(time) for time in times), last]


def drawn(case: Case) -> Callable[..., Tensor]:
    """The noise that their generator gives: one a step, or one after the other."""
    gen = torch.Generator().manual_seed(3)
    draws = [torch.randn(SHAPE, generator=gen) for _ in range((case.count + 1) * case.calls)]
    if case.scheduler == "DPMSolverSDEScheduler":
        return lambda *_: draws.pop(0)
    return lambda step: draws[step.index]


def their_walk(case: Case, theirs: Any, network: Callable[[Tensor, float], Tensor], start: Tensor) -> list[Tensor]:
    """x before each of their calls, and at the end."""
    x, seen = start, []
    takes = inspect.signature(theirs.step).parameters
    gen = {"generator": torch.Generator().manual_seed(3)} if "generator" in takes else {}
    theirs.noise_sampler = drawn(case)
    for time in theirs.timesteps:
        seen.append(x)
        inner = theirs.scale_model_input(x, time) if hasattr(theirs, "scale_model_input") else x
        x = theirs.step(network(inner, float(time)), time, x, **gen, **case.extra).prev_sample
    return [*seen, x]


def ours(case: Case, path: NoisePath, prediction: Prediction, network: Any, theirs: Any) -> Callable[..., Tensor]:
    def denoise(x: Tensor, at: Step) -> Tensor:
        if case.kind == "edm":
            out = network(theirs.precondition_inputs(x, at.level), at.t)
            return theirs.precondition_outputs(x, out, at.level)
        return to_x0(prediction, network(x, at.t), x, at.alpha, at.sigma)

    return denoise


@pytest.mark.parametrize("case", CASES, ids=str)
@torch.no_grad()
def test_each_step_and_the_whole_run_are_those_of_diffusers(case: Case, network: Any) -> None:
    theirs = scheduler_of(case)
    path, prediction, levels = walk_of(case, theirs)
    steps, denoise = steps_of(path, levels), ours(case, path, prediction, network, theirs)
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * getattr(theirs, "init_noise_sigma", 1.0)
    seen = their_walk(case, theirs, network, start)
    places = [0, *range(2, len(seen))] if case.sampler == "plms" else [*range(0, len(seen) - 1, case.calls), len(seen) - 1]

    def mine(x: Tensor, level: float) -> Tensor:
        """Their x in our units."""
        return x / math.sqrt(1 + level * level) if case.kind == "sigma" else x

    for lockstep in (True, False):
        sampler, history, noise = make(case.sampler, **case.own), History(), drawn(case)
        x = mine(start, levels[0])
        for step, (before, after) in zip(steps, pairwise(places), strict=True):
            if lockstep:
                x = mine(seen[before], step.level)
            x = sampler(denoise, x, step, history, noise)
            want = mine(seen[after], step.next_level)
            assert float((x - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max())), (lockstep, step.index)


@torch.no_grad()
def test_unipc_bh1_ends_where_diffusers_gives_nan(network: Any) -> None:
    """Into sigma 0 its B(h) is infinite, and diffusers multiplies it with 0. The estimate there is the exact end."""
    case = Case(scheduler=UNI, sampler="unipc", options={"solver_type": "bh1"}, own={"variant": "bh1"})
    theirs = scheduler_of(case)
    path, _, levels = walk_of(case, theirs)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    assert their_walk(case, theirs, network, x)[-1].isnan().any()
    goal = torch.linspace(-1, 1, x.numel()).reshape(SHAPE)
    sampler, history = make("unipc", variant="bh1"), History()
    for step in steps_of(path, levels):
        x = sampler(lambda _x, _at: goal, x, step, history, drawn(case))
    assert torch.allclose(x, goal, atol=1e-6)
