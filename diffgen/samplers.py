"""How to take a step from one noise level to the next. One small function each.

Every sampler is `(denoise, x, step, history, noise, **settings) -> x'`. `denoise(x, step)` gives the clean
estimate x0, and the step gives (alpha, sigma) at both ends, so one body serves variance-preserving, EDM and
flow paths. Multistep samplers work in lambda = ln(alpha / sigma), with h = lambda' - lambda.
All are finite where alpha or sigma is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from diffgen.contracts import Denoiser, History, Latents, Noise, Sampler, Step
from diffgen.errors import UsageError, unknown


def first_order(x: Latents, x0: Latents, step: Step) -> Latents:
    """The step formula all samplers share: exact while x0 stays the same.

    DDIM (2010.02502) on a variance-preserving path, Euler on EDM and flow paths.
    """
    ratio = step.next_sigma / step.sigma
    return ratio * x + (step.next_alpha - step.alpha * ratio) * x0


def _gain(alpha: float, exponent: float) -> float:
    """alpha (1 - exp(-exponent)), the weight of x0 in exponential integrators; finite at infinity."""
    return -alpha * math.expm1(-exponent)


def _ancestral(step: Step, eta: float) -> tuple[float, float]:
    """(down, up): sigma / alpha after the deterministic part, and the noise added, as in k-diffusion."""
    here, there = (math.exp(-lam) for lam in (step.lam, step.next_lam))
    up = min(there, eta * there * math.sqrt(max(1 - (there / here) ** 2, 0.0)))
    return math.sqrt(there**2 - up**2), up


def euler(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """First order, deterministic. Euler on EDM and flow paths, DDIM on a variance-preserving one."""
    return first_order(x, denoise(x, step), step)


def euler_ancestral(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """First order with fresh noise after each step; eta 0 is `euler`. Karras et al. 2206.00364, k-diffusion.

    On a variance-preserving path this is DDIM with the same eta (2010.02502, eq. 16).
    """
    x0 = denoise(x, step)
    down, up = _ancestral(step, eta)
    part = down / step.sigma
    x = step.next_alpha * (part * x + (1 - part * step.alpha) * x0)
    return x + step.next_alpha * up * s_noise * noise(step) if up > 0 else x


def ddim(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 0.0
) -> Latents:
    """DDIM (2010.02502). eta 0 is deterministic, eta 1 is DDPM's variance."""
    return euler_ancestral(denoise, x, step, history, noise, eta=eta)


def heun(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Second order, two evaluations a step, one in the last. EDM algorithm 1 without churn (2206.00364).

    It integrates x / scale over the level, where sigma = level * scale: EDM's variables on
    variance-preserving and EDM paths, the straight line's on a flow path.
    """
    scale = step.sigma / step.level
    slope = (x / scale - denoise(x, step)) / step.level
    size = step.next_level - step.level
    if step.next_level <= 0:
        return (x / scale + size * slope) * step.next_alpha
    next_scale = step.next_sigma / step.next_level
    guess = x / scale + size * slope
    later = (guess - denoise(guess * next_scale, step.at(step.next_level))) / step.next_level
    return (x / scale + size * 0.5 * (slope + later)) * next_scale


def dpmpp_2m(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """DPM-Solver++(2M), second order, one evaluation a step, deterministic. 2211.01095, algorithm 2."""
    return dpmpp_2m_sde(denoise, x, step, history, noise, eta=0.0)


def dpmpp_2m_sde(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """DPM-Solver++(2M) on the reverse SDE, midpoint form. 2211.01095, section 5; eta as in k-diffusion.

    The last step is of first order where it reaches sigma 0, and for fewer than 15 steps, as in diffusers.
    """
    x0 = denoise(x, step)
    h = step.next_lam - step.lam
    gain = _gain(step.next_alpha, (1 + eta) * h)
    shrink = math.exp(-eta * h) if eta else 1.0
    result = step.next_sigma / step.sigma * shrink * x + gain * x0
    last = step.index == step.count - 1
    lower = last and (step.next_sigma == 0 or step.count < 15)
    if history.points and not lower:
        before, old = history.points[-1]
        result = result + 0.5 * gain * (h / (step.lam - before.lam)) * (x0 - old)
    history.remember(step, x0, keep=1)
    if eta and step.next_sigma > 0:
        result = result + step.next_sigma * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise * noise(step)
    return result


def lcm(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Consistency sampling: jump to x0, then noise it to the next level. 2310.04378, algorithm 3."""
    x0 = denoise(x, step)
    return step.next_alpha * x0 + step.next_sigma * noise(step) if step.next_sigma > 0 else step.next_alpha * x0


def _unipc_residual(
    step: Step, points: list[tuple[Step, Latents]], order: int, variant: str, new: Latents | None
) -> Latents | float:
    """The correction to the first-order step from the differences of x0 (UniPC 2302.04867, eq. 9).

    Args:
        step: the step taken; `points[-1]` was evaluated at its start.
        new: x0 at the end of the step, for the corrector; None for the predictor.
    """
    h, base = step.next_lam - step.lam, points[-1][1]
    older = list(reversed(points[:-1]))[: order - 1]
    ratios = [(at.lam - step.lam) / h for at, _ in older]
    differences = [(x0 - base) / ratio for (_, x0), ratio in zip(older, ratios, strict=True)]
    if new is not None:
        ratios.append(1.0)
        differences.append(new - base)
    if not differences:
        return 0.0
    phi = math.expm1(-h)
    scale = -h if variant == "bh1" else phi
    power, factorial, right = phi / -h - 1, 1.0, []
    for i in range(1, len(ratios) + 1):
        right.append(power * factorial / scale)
        factorial *= i + 1
        power = power / -h - 1 / factorial
    if len(ratios) == 1:
        weights = [0.5]  # the paper's choice for one unknown, which keeps the order
    else:
        weights = list(np.linalg.solve([[r**i for r in ratios] for i in range(len(ratios))], right))
    total = sum(float(weight) * difference for weight, difference in zip(weights, differences, strict=True))
    return -step.next_alpha * scale * total


def unipc(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 2, variant: str = "bh2"
) -> Latents:
    """UniPC: a multistep predictor, corrected by the evaluation the next step needs anyway. 2302.04867.

    Args:
        order: of the predictor, 1 to 3; lower in the first and last steps.
        variant: the paper's B(h), "bh1" or "bh2".
    """
    x0 = denoise(x, step)
    before = history.points[-1][0] if history.points else None
    if before is not None and history.x is not None and before.lam > -math.inf:
        x = first_order(history.x, history.points[-1][1], before)
        x = x + _unipc_residual(before, history.points, history.order, variant, x0)
    history.remember(step, x0)
    # An estimate made at alpha = 0 lies infinitely far away in lambda and says nothing of the curvature here.
    usable = [point for point in history.points if point[0].lam > -math.inf]
    history.order = max(min(order, step.count - step.index, len(usable)), 1)
    history.x = x
    if step.lam == -math.inf or step.next_sigma == 0:
        return first_order(x, x0, step)
    return first_order(x, x0, step) + _unipc_residual(step, usable, history.order, variant, None)


@dataclass(frozen=True, kw_only=True)
class SamplerInfo:
    """A row of the table that `diffgen samplers` prints."""

    function: Callable[..., Latents]
    label: str
    order: int
    evaluations: int
    stochastic: bool
    settings: tuple[str, ...] = ()
    good_for: str = ""


SAMPLERS: dict[str, SamplerInfo] = {
    "euler": SamplerInfo(
        function=euler, label="Euler", order=1, evaluations=1, stochastic=False,
        good_for="a plain reference; flow models"),
    "euler_ancestral": SamplerInfo(
        function=euler_ancestral, label="Euler a", order=1, evaluations=1, stochastic=True,
        settings=("eta", "s_noise"), good_for="variety; soft detail"),
    "heun": SamplerInfo(
        function=heun, label="Heun", order=2, evaluations=2, stochastic=False, good_for="accuracy a step"),
    "dpmpp_2m": SamplerInfo(
        function=dpmpp_2m, label="DPM++ 2M", order=2, evaluations=1, stochastic=False,
        good_for="most models at 20 to 30 steps"),
    "dpmpp_2m_sde": SamplerInfo(
        function=dpmpp_2m_sde, label="DPM++ 2M SDE", order=2, evaluations=1, stochastic=True,
        settings=("eta", "s_noise"), good_for="rich detail at 30 steps and more"),
    "unipc": SamplerInfo(
        function=unipc, label="UniPC", order=2, evaluations=1, stochastic=False,
        settings=("order", "variant"), good_for="few steps"),
    "ddim": SamplerInfo(
        function=ddim, label="DDIM", order=1, evaluations=1, stochastic=False, settings=("eta",),
        good_for="the published results of older models"),
    "lcm": SamplerInfo(
        function=lcm, label="LCM", order=1, evaluations=1, stochastic=True,
        good_for="consistency-distilled models at 4 to 8 steps"),
}  # fmt: skip


def make(name: str, **settings: Any) -> Sampler:
    """The sampler of that name with its settings bound.

    Raises:
        UsageError: the name or a setting is unknown; the message lists the accepted ones.
    """
    info = SAMPLERS.get(name)
    if info is None:
        raise unknown("sampler", name, SAMPLERS)
    strange = sorted(set(settings) - set(info.settings))
    if strange:
        accepted = ", ".join(info.settings) or "none"
        raise UsageError(f"sampler {name!r} has no setting {strange[0]!r}; accepted: {accepted}")
    return partial(info.function, **settings)
