"""Problems whose exact solution is known, and samplers walked over them. Used by `convergence.py` and by tests.

The data are Gaussian or a mixture of two Gaussians, so the perfect denoiser E[x0 | x] is a formula. The
probability-flow ODE keeps every sample's quantile, which gives its exact end. For Gaussian data every sampler is an
affine map of its start and its noises, so the mean and covariance it reaches are computed and not estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffgen.contracts import Denoiser, History, Noise, Step, steps_of
from diffgen.path import EDMPath, FlowPath, NoisePath, Prediction, betas_path, target, to_x0
from diffgen.samplers import make

# Path, and what a network on it predicts. v is tried where it is needed: with a zero-terminal-SNR table.
PATHS: dict[str, tuple[NoisePath, Prediction]] = {
    "VP epsilon": (betas_path(), "epsilon"),
    "VP v": (betas_path(zero_snr=True), "v"),
    "EDM": (EDMPath(), "x0"),
    "flow": (FlowPath(), "flow"),
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Data in one dimension: `share` of N(low, std^2) and the rest N(high, std^2); `ends` of the walk in
    sigma / alpha."""

    low: float
    high: float
    std: float
    share: float = 1.0
    ends: tuple[float, float] = (4.0, 0.5)

    def estimate(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x0 | x]."""
        total = (alpha * self.std) ** 2 + sigma**2
        parts = [m + alpha * self.std**2 / total * (x - alpha * m) for m in (self.low, self.high)]
        if self.share == 1:
            return parts[0]
        odds = ((x - alpha * self.high) ** 2 - (x - alpha * self.low) ** 2) / (2 * total)
        weight = torch.sigmoid(odds + math.log(self.share / (1 - self.share)))
        return weight * parts[0] + (1 - weight) * parts[1]

    def below(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """The share of noised samples below x."""
        total = math.hypot(alpha * self.std, sigma)
        low, high = (torch.special.ndtr((x - alpha * m) / total) for m in (self.low, self.high))
        return self.share * low + (1 - self.share) * high

    def at(self, quantiles: Tensor, alpha: float, sigma: float) -> Tensor:
        """The noised samples below which those shares lie; by bisection to the last bit."""
        reach = 9 * math.hypot(alpha * self.std, sigma)
        low = torch.full_like(quantiles, alpha * min(self.low, self.high) - reach)
        high = torch.full_like(quantiles, alpha * max(self.low, self.high) + reach)
        for _ in range(70):
            half = (low + high) / 2
            under = self.below(half, alpha, sigma) < quantiles
            low, high = torch.where(under, half, low), torch.where(under, high, half)
        return (low + high) / 2

    def moments(self, alpha: float, sigma: float) -> tuple[float, float]:
        """(mean, variance) of noised samples."""
        mean = self.share * self.low + (1 - self.share) * self.high
        spread = self.share * (1 - self.share) * (self.low - self.high) ** 2
        return alpha * mean, alpha**2 * (self.std**2 + spread) + sigma**2


PROBLEMS: dict[str, Problem] = {
    "Gaussian, mild": Problem(low=0.3, high=0.3, std=0.5),
    "Gaussian, stiff": Problem(low=0.3, high=0.3, std=0.12, ends=(4.0, 0.15)),
    "mixture, mild": Problem(low=-1.0, high=0.8, std=0.4, share=0.3),
    "mixture, stiff": Problem(low=-1.0, high=0.8, std=0.15, share=0.3, ends=(4.0, 0.2)),
}
# Away from the gap between the two, where the ODE itself doubles every error.
QUANTILES = torch.tensor([0.03, 0.08, 0.15, 0.2, 0.45, 0.6, 0.75, 0.9, 0.97], dtype=torch.float64)


def denoiser(problem: Problem, prediction: Prediction) -> Denoiser:
    """The perfect network of that prediction type, and back from its output to x0."""

    def denoise(x: Tensor, step: Step) -> Tensor:
        x0 = problem.estimate(x, step.alpha, step.sigma)
        out = target(prediction, x0, (x - step.alpha * x0) / step.sigma, step.alpha, step.sigma)
        return to_x0(prediction, out, x, step.alpha, step.sigma)

    return denoise


def spaced(path: NoisePath, ends: tuple[float, float], count: int, *, even: bool, before: int = 0) -> list[float]:
    """`count` + 1 levels between the ends, even in lambda or in the level, and `before` more of the same ahead."""
    first, last = (path.level_at(-math.log(ratio)) for ratio in ends)
    if even:
        return [first + k / count * (last - first) for k in range(-before, count + 1)]
    high, low = (-math.log(ratio) for ratio in ends)
    return [path.level_at(high + k / count * (low - high)) for k in range(-before, count + 1)]


def ode_error(
    name: str, settings: dict[str, Any], where: str, problem: Problem, count: int, *, even: bool, before: int
) -> float:
    """The largest distance from the exact end of the probability-flow ODE after `count` steps.

    With `before`, as many steps are taken ahead, each from the exact place, so that the history is full.
    """
    path, prediction = PATHS[where]
    denoise, history, sampler = denoiser(problem, prediction), History(), make(name, **settings)
    x = torch.empty(0)
    steps = steps_of(path, spaced(path, problem.ends, count, even=even, before=before))
    for step in steps:
        if step.index <= before:
            # No corrector may take the start of the step before up again: it would bring its error along.
            x, history.x = problem.at(QUANTILES, step.alpha, step.sigma), None
        x = sampler(denoise, x, step, history, torch.zeros_like)  # type: ignore[arg-type]
    exact = problem.at(QUANTILES, steps[-1].next_alpha, steps[-1].next_sigma)
    return float((x - exact).abs().max())


def coupled_moments(
    name: str, settings: dict[str, Any], where: str, problem: Problem, counts: Sequence[int], samples: int = 20_000
) -> list[tuple[float, float]]:
    """(mean, variance) reached with each number of steps, all of them along the same Brownian paths.

    The paths run in lambda. Together they make differences between step counts far smaller than either's own error
    of estimation, so that the weak order can be read off.
    """
    path, prediction = PATHS[where]
    denoise, gen = denoiser(problem, prediction), torch.Generator().manual_seed(0)
    cells = 2 * max(counts)
    walk = torch.randn(cells, samples, generator=gen, dtype=torch.float64).cumsum(0)
    walk = torch.cat([torch.zeros_like(walk[:1]), walk])
    low, high = (-math.log(ratio) for ratio in problem.ends)
    shares = (torch.randperm(samples, generator=gen) + 0.5).to(torch.float64) / samples

    def noise(step: Step) -> Tensor:
        first, last = (round((lam - low) / (high - low) * cells) for lam in (step.lam, step.next_lam))
        if last <= first:
            return torch.randn(samples, generator=gen, dtype=torch.float64)
        return (walk[last] - walk[first]) / math.sqrt(last - first)

    found = []
    for count in counts:
        history, sampler = History(), make(name, **settings)
        steps = steps_of(path, spaced(path, problem.ends, count, even=False))
        x = problem.at(shares, steps[0].alpha, steps[0].sigma)
        for step in steps:
            x = sampler(denoise, x, step, history, noise)
        found.append((float(x.mean()), float(x.var(correction=0))))
    return found


def order_of(errors: Sequence[float], counts: Sequence[int]) -> float:
    """The order: minus the least-squares slope of ln(error) over ln(steps)."""
    return -float(np.polyfit(np.log(counts), np.log(np.maximum(errors, 1e-300)), 1)[0])


class Recorder:
    """A noise source whose draws are basis vectors: what each does to the end is then read off one run.

    Draws over parts of one interval of lambda are increments of one Brownian path, cut at every end in `cuts`; draws
    going up in noise are fresh. A first run with no cuts collects them.
    """

    def __init__(self, cuts: Sequence[float] = (), rows: int = 0, size: int = 2) -> None:
        self.cuts, self.rows, self.size, self.seen, self.fresh = list(cuts), rows, size, set[float](), 0

    def __call__(self, step: Step) -> Tensor:
        start, stop = round(step.lam, 12), round(step.next_lam, 12)
        out = torch.zeros(max(self.rows, 1), self.size, dtype=torch.float64)
        if stop <= start:
            self.fresh += 1
            pieces = [(max(len(self.cuts) - 1, 0) + self.fresh - 1, 1.0)]
        else:
            self.seen |= {start, stop}
            inside = [k for k, (a, b) in enumerate(zip(self.cuts, self.cuts[1:], strict=False))
                      if a >= start - 1e-9 and b <= stop + 1e-9]  # fmt: skip
            pieces = [(k, math.sqrt((self.cuts[k + 1] - self.cuts[k]) / (stop - start))) for k in inside]
        for k, weight in pieces if self.rows else ():
            for axis in range(self.size):
                # Row 0 is the start at 0, rows 1.. the start's axes, then the noises.
                out[1 + self.size * (1 + k) + axis, axis] = weight
        return out


MEAN = torch.tensor([0.3, -0.4], dtype=torch.float64)


def covariance(stiff: bool) -> Tensor:
    """Of the two-dimensional Gaussian data: axes at an angle, standard deviations 0.8 and 0.3 (stiff: 0.1)."""
    turn, lengths = 0.6, torch.tensor([0.8, 0.1 if stiff else 0.3], dtype=torch.float64)
    axes = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    return axes @ torch.diag(lengths**2) @ axes.T


def moments_error(
    name: str, settings: dict[str, Any], where: str, count: int, *, stiff: bool = False,
    estimate: Callable[[Tensor, Step], Tensor] | None = None,
) -> tuple[float, float]:  # fmt: skip
    """(error of the mean, error of the covariance), each relative, at the end of a walk over Gaussian data."""
    path, prediction = PATHS[where]
    ends = (4.0, 0.2 if stiff else 0.5)
    steps = steps_of(path, spaced(path, ends, count, even=False))
    spread, eye = covariance(stiff), torch.eye(2, dtype=torch.float64)

    def perfect(x: Tensor, step: Step) -> Tensor:
        gain = step.alpha * spread @ torch.linalg.inv(step.alpha**2 * spread + step.sigma**2 * eye)
        x0 = MEAN + (x - step.alpha * MEAN) @ gain.T
        out = target(prediction, x0, (x - step.alpha * x0) / step.sigma, step.alpha, step.sigma)
        return to_x0(prediction, out, x, step.alpha, step.sigma)

    def run(x: Tensor, noise: Noise) -> Tensor:
        history, sampler = History(), make(name, **settings)
        for step in steps:
            x = sampler(estimate or perfect, x, step, history, noise)
        return x

    dry = Recorder()
    run(torch.zeros(1, 2, dtype=torch.float64), dry)
    cuts = sorted(dry.seen)
    x = torch.zeros(1 + 2 * (1 + max(len(cuts) - 1, 0) + dry.fresh), 2, dtype=torch.float64)
    x[1, 0] = x[2, 1] = 1.0
    made = run(x, Recorder(cuts, x.shape[0]))
    columns = made[1:] - made[0]
    start, noises = columns[:2].T, columns[2:].T
    first, last = steps[0], steps[-1]
    mean = made[0] + start @ (first.alpha * MEAN)
    reached = start @ (first.alpha**2 * spread + first.sigma**2 * eye) @ start.T + noises @ noises.T
    want, wanted = last.next_alpha * MEAN, last.next_alpha**2 * spread + last.next_sigma**2 * eye
    return float((mean - want).norm() / want.norm()), float((reached - wanted).norm() / wanted.norm())
