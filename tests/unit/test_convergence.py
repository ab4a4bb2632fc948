"""Samplers reach the order that the table states, on problems whose solution is a formula.

The whole table is `python benchmarks/convergence.py`; here is one problem a sampler and path.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from benchmarks.convergence import (
    JUMPS,
    deterministic,
    measured,
    on_mixture,
    stochastic,
    weak,
)
from benchmarks.exact import MEAN, PATHS, PROBLEMS, covariance, moments_error, ode_error, order_of
from diffgen import noise as noises
from diffgen.contracts import History, Latents, Step, steps_of
from diffgen.path import betas_path
from diffgen.samplers import SAMPLERS, make
from diffgen.schedules import levels
from tests.unit.test_samplers import gaussian

Row = tuple[str, dict[str, Any], int]


def name_of(row: Row) -> str:
    return "-".join([row[0], *(f"{key}={value}" for key, value in row[1].items())])


@pytest.mark.parametrize("row", deterministic(), ids=name_of)
def test_the_stated_order_is_reached(row: Row) -> None:
    name, settings, order = row
    # The paths take turns: each sampler sees one here, and all of them in the benchmark.
    where = list(PATHS)[deterministic().index(row) % len(PATHS)]
    assert measured(name, settings, where, "mixture, mild") == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("row", stochastic(), ids=name_of)
def test_mean_and_covariance_are_right_and_converge(row: Row) -> None:
    name, settings, order = row
    where = list(PATHS)[stochastic().index(row) % len(PATHS)]
    slope, mean, spread = weak(name, settings, where, False)
    assert slope > order - 0.2
    assert mean < 1e-9 and spread < (0.06 if order == 1 else 2e-3)


@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde", "sa_solver", "restart"])
def test_a_mixture_keeps_its_mean_and_variance(name: str) -> None:
    mean, variance = on_mixture(name, {}, "flow")
    assert abs(mean) < 0.03 and abs(variance) < 0.04


@pytest.mark.parametrize("name", JUMPS)
def test_jumping_samplers_are_exact_on_a_perfect_student(name: str) -> None:
    """A distilled network gives the end of the ODE from anywhere; then every number of steps has the right end."""
    spread = covariance(False)
    values, axes = torch.linalg.eigh(spread)

    def student(x: Latents, step: Step) -> Latents:
        scale = values.sqrt() / (step.alpha**2 * values + step.sigma**2).sqrt()
        return MEAN + ((x - step.alpha * MEAN) @ axes * scale) @ axes.T

    settings = {"gamma": 1.0} if name == "tcd" else {}
    for count in (1, 4):
        assert max(moments_error(name, settings, "flow", count, estimate=student)) < 1e-12


def test_the_published_third_order_multistep_has_order_two() -> None:
    """diffusers, k-diffusion and the paper's code take half of the second difference; the exact solution tells."""
    orders = {
        variant: measured("dpmpp_3m_sde", {"eta": 0.0, "variant": variant}, "EDM", "mixture, mild")
        for variant in ("published", "exact")
    }
    assert orders["published"] == pytest.approx(2, abs=0.2) and orders["exact"] == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("name", ["dpmpp_2m", "deis", "lms", "unipc"])
def test_a_warm_start_is_worth_its_evaluations(name: str) -> None:
    problem = PROBLEMS["mixture, mild"]
    grow, heun = (ode_error(name, {"warm_up": kind}, "flow", problem, 24, even=False, before=0)
                  for kind in ("grow", "heun"))  # fmt: skip
    assert heun < grow


def test_many_small_steps_do_not_lose_digits() -> None:
    """Weights are computed relative to the step; taken from absolute levels they cancel, and lms stops at 1e-7."""
    counts = (192, 768)
    errors = [ode_error("lms", {}, "flow", PROBLEMS["Gaussian, mild"], n, even=False, before=6) for n in counts]
    assert order_of(errors, counts) > 3.5


@pytest.mark.parametrize("name", [name for name, info in SAMPLERS.items() if info.noise == "brownian"])
def test_one_seed_goes_to_one_picture_as_steps_grow(name: str) -> None:
    """The distance between n and 2 n steps shrinks, as it does not with fresh noise at every step."""
    path = betas_path()

    def end(count: int, kind: noises.NoiseKind) -> torch.Tensor:
        first, later = noises.sequence([3], (1, 1, 1, 8, 8), kind=kind)
        x, history, noise = first, History(), later()
        for step in steps_of(path, levels("karras", path, count)):
            x = make(name)(gaussian(0.3, 0.5), x, step, history, noise)
        return x

    def distances(kind: noises.NoiseKind) -> list[float]:
        ends = [end(count, kind) for count in (20, 40, 80, 160)]
        return [float((a - b).norm() / b.norm()) for a, b in pairwise(ends)]

    together, apart = distances("brownian"), distances("fresh")
    assert together[-1] < 0.6 * together[0] and together[-1] < 0.3 * min(apart)
