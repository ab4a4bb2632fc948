"""Measured order of convergence: sampler x path, on problems whose exact solution is known.

    python benchmarks/convergence.py [--sampler NAME ...] [--json FILE]

Data are a Gaussian ("mild": standard deviation 0.5; "stiff": 0.02) or a mixture of two Gaussians, for which the
perfect denoiser E[x0 | x] is a formula. Deterministic samplers are compared with the exact end point of the
probability-flow ODE over a part of the walk that stops short of sigma 0, where every quantity is smooth: the order is
the slope of ln(error) over ln(steps). Stochastic samplers are judged by mean and standard deviation, the weak order
being the slope of their error.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen.contracts import Denoiser, History, Step, steps_of
from diffgen.path import EDMPath, FlowPath, NoisePath, betas_path
from diffgen.samplers import SAMPLERS, make

PATHS: dict[str, NoisePath] = {"VP": betas_path(), "EDM": EDMPath(), "flow": FlowPath()}
ENDS = {"VP": (8.0, 0.5), "EDM": (8.0, 0.5), "flow": (0.9, 0.3)}
COUNTS = (20, 40, 80, 160)


def gaussian(mean: float, std: float) -> Denoiser:
    """E[x0 | x] for data N(mean, std^2)."""

    def denoise(x: Tensor, step: Step) -> Tensor:
        total = (step.alpha * std) ** 2 + step.sigma**2
        return mean + step.alpha * std**2 / total * (x - step.alpha * mean)

    return denoise


def mixture(distance: float, std: float) -> Denoiser:
    """E[x0 | x] for an even mixture of N(-distance, std^2) and N(distance, std^2)."""

    def denoise(x: Tensor, step: Step) -> Tensor:
        total = (step.alpha * std) ** 2 + step.sigma**2
        side = torch.tanh(step.alpha * distance * x / total)
        return (step.alpha * std**2 * x + step.sigma**2 * distance * side) / total

    return denoise


PROBLEMS: dict[str, Denoiser] = {"mild": gaussian(0.3, 0.5), "mixture": mixture(1.0, 0.4)}


def walk(name: str, path: NoisePath, ends: tuple[float, float], count: int, x: Tensor, denoise: Denoiser,
         noise: Callable[[Step], Tensor], **settings: Any) -> Tensor:  # fmt: skip
    """`count` steps between the ends, even in lambda."""
    first, last = (_lam(path, level) for level in ends)
    levels = [path.level_at(first + k / count * (last - first)) for k in range(count + 1)]
    history, sampler = History(), make(name, **settings)
    for step in steps_of(path, levels):
        x = sampler(denoise, x, step, history, noise)
    return x


def _lam(path: NoisePath, level: float) -> float:
    alpha, sigma = path.coefficients(level)
    return math.log(alpha / sigma)


def slope_of(errors: list[float], counts: tuple[int, ...]) -> float:
    """The order: minus the least-squares slope of ln(error) over ln(steps)."""
    xs, ys = [math.log(n) for n in counts], [math.log(max(e, 1e-300)) for e in errors]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return -sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)


def deterministic_order(name: str, where: str, problem: str) -> tuple[float, list[float]]:
    """(order, errors) against `heun` with 4,000 steps, in float64."""
    path, ends, denoise = PATHS[where], ENDS[where], PROBLEMS[problem]
    x = torch.linspace(-2, 2, 41, dtype=torch.float64) * path.coefficients(ends[0])[1]
    exact = walk("heun", path, ends, 4000, x, denoise, lambda step: torch.zeros_like(x))
    errors = [
        float((walk(name, path, ends, n, x, denoise, lambda step: torch.zeros_like(x)) - exact).abs().max())
        for n in COUNTS
    ]
    return slope_of(errors[1:], COUNTS[1:]), errors


def stochastic_moments(name: str, where: str, count: int = 160, pictures: int = 200_000) -> tuple[float, float]:
    """(error of the mean, relative error of the standard deviation) of Gaussian data at the end of the walk."""
    path, ends = PATHS[where], ENDS[where]
    gen = torch.Generator().manual_seed(0)
    alpha, sigma = path.coefficients(ends[0])
    x = alpha * 0.3 + math.hypot(alpha * 0.5, sigma) * torch.randn(pictures, generator=gen, dtype=torch.float64)
    made = walk(name, path, ends, count, x, PROBLEMS["mild"],
                lambda step: torch.randn(pictures, generator=gen, dtype=torch.float64))  # fmt: skip
    alpha, sigma = path.coefficients(ends[1])
    return float(made.mean()) - alpha * 0.3, float(made.std()) / math.hypot(alpha * 0.5, sigma) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", nargs="*", default=list(SAMPLERS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'sampler':20}{'stated':>7}  " + "".join(f"{f'{where} {p}':>14}" for where in PATHS for p in PROBLEMS))
    for name in args.sampler:
        info = SAMPLERS[name]
        if info.stochastic:
            found = {where: stochastic_moments(name, where) for where in PATHS}
            shown = "".join(f"{f'{m:+.3f} {s:+.1%}':>28}" for m, s in found.values())
            print(f"{name:20}{'mean/std':>7}  {shown}")
        else:
            found = {f"{w} {p}": deterministic_order(name, w, p)[0] for w in PATHS for p in PROBLEMS}
            print(f"{name:20}{info.order:7}  " + "".join(f"{order:14.2f}" for order in found.values()))
        rows.append({"sampler": name, "order": info.order, "found": found})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
