"""Samplers reach the order that the table states, on a problem whose solution is a formula."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from benchmarks.convergence import ENDS, PATHS, gaussian, slope_of, walk
from diffgen import noise as noises
from diffgen.contracts import steps_of
from diffgen.samplers import SAMPLERS
from diffgen.schedules import levels


def exact(where: str, x: torch.Tensor) -> torch.Tensor:
    """The end of the probability-flow ODE for Gaussian data: every sample keeps its quantile."""
    (a, s), (b, t) = (PATHS[where].coefficients(level) for level in ENDS[where])
    return b * 0.3 + math.hypot(b * 0.5, t) / math.hypot(a * 0.5, s) * (x - a * 0.3)


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("name", [name for name, info in SAMPLERS.items() if not info.stochastic])
def test_the_stated_order_is_reached(name: str, where: str) -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64) * PATHS[where].coefficients(ENDS[where][0])[1]
    counts, still = (40, 80, 160), lambda step: torch.zeros_like(x)
    errors = [
        float((walk(name, PATHS[where], ENDS[where], n, x, gaussian(0.3, 0.5), still) - exact(where, x)).abs().max())
        for n in counts
    ]
    assert slope_of(errors, counts) > SAMPLERS[name].order - 0.2


@pytest.mark.parametrize("name", [name for name, info in SAMPLERS.items() if info.noise == "brownian"])
def test_one_seed_goes_to_one_picture_as_steps_grow(name: str) -> None:
    """The distance between n and 2 n steps shrinks, as it does not with fresh noise at every step."""
    path = PATHS["VP"]

    def end(count: int, kind: noises.NoiseKind) -> torch.Tensor:
        first, later = noises.sequence([3], (1, 1, 1, 8, 8), kind=kind)
        from diffgen.contracts import History
        from diffgen.samplers import make

        x, history, noise = first, History(), later()
        for step in steps_of(path, levels("karras", path, count)):
            x = make(name)(gaussian(0.3, 0.5), x, step, history, noise)
        return x

    def distances(kind: noises.NoiseKind) -> list[float]:
        ends = [end(count, kind) for count in (20, 40, 80, 160)]
        return [float((a - b).norm() / b.norm()) for a, b in pairwise(ends)]

    together, apart = distances("brownian"), distances("fresh")
    assert together[-1] < 0.6 * together[0] and together[-1] < 0.3 * min(apart)
