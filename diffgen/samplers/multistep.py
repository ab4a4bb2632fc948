"""Exponential samplers that reuse earlier clean estimates: one evaluation a step, an order above one."""

from __future__ import annotations

import math

import numpy as np

from diffgen.contracts import Denoiser, History, Latents, Noise, Step
from diffgen.samplers.formulas import (
    combine,
    decay,
    down_step,
    far,
    first_order,
    gain,
    order_left,
    renoise,
    sde_noise,
)
from diffgen.samplers.weights import exponential


def _second(
    x: Latents, x0: Latents, step: Step, start: Step, history: History, eta: float, variant: str
) -> Latents:
    """The step formula and its second-order part, from the estimate before; `start` is where x0 was made."""
    result = first_order(x, x0, step, eta)
    if not history.points:
        return result
    before, old = history.points[-1]
    grown = (1 + eta) * (step.next_lam - step.lam)
    weight = gain(step.next_alpha, grown)
    bend = 0.5 * weight if variant == "midpoint" else step.next_alpha - weight / grown
    return result + bend * ((step.next_lam - step.lam) / (start.lam - before.lam)) * (x0 - old)


def dpmpp_2m(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, variant: str = "midpoint",
    finish: str = "auto",
) -> Latents:
    """DPM-Solver++(2M), second order, deterministic. 2211.01095, algorithm 2."""
    return dpmpp_2m_sde(denoise, x, step, history, noise, eta=0.0, variant=variant, finish=finish)


def dpmpp_2m_sde(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0,
    s_noise: float = 1.0, variant: str = "midpoint", finish: str = "auto",
) -> Latents:
    """DPM-Solver++(2M) on the reverse SDE. 2211.01095, section 5; eta as in k-diffusion.

    Args:
        variant: how the change of x0 is weighted: by the "midpoint" rule, or with its exact integral, which the
            reference implementations call "heun".
    """
    x0 = denoise(x, step)
    if order_left(step, 2, finish) < 2:
        history.points = []
    result = _second(x, x0, step, step, history, eta, variant)
    history.remember(step, x0, keep=1)
    return sde_noise(result, step, eta, s_noise, noise)


def res_multistep(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 0.0,
    s_noise: float = 1.0, finish: str = "full",
) -> Latents:
    """Refined exponential solver, second-order multistep. 2308.02157, section 3.2; with eta ancestral, as ComfyUI."""
    x0, down = denoise(x, step), down_step(step, eta)
    if order_left(down, 2, finish) < 2 or (history.points and history.points[-1][0].lam == -math.inf):
        history.points = []
    result = _second(x, x0, down, step, history, 0.0, "heun")
    history.remember(step, x0, keep=1)
    return renoise(result, down, step, noise, s_noise)


def dpmpp_3m_sde(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0,
    s_noise: float = 1.0, variant: str = "published", finish: str = "full",
) -> Latents:
    """DPM-Solver++(3M) on the reverse SDE, as in k-diffusion's `sample_dpmpp_3m_sde` and in diffusers.

    Args:
        variant: "published" is the form of the reference implementations, which take half of the second difference
            and so have order 2; "exact" takes the whole, and has order 3.
    """
    x0 = denoise(x, step)
    known = [(step, x0), *((at, old) for at, old in reversed(history.points) if at.lam > -math.inf)]
    history.remember(step, x0, keep=2)
    points = known[: order_left(step, 3, finish)] if step.lam > -math.inf else known[:1]
    if len(points) == 1:
        return sde_noise(first_order(x, x0, step, eta), step, eta, s_noise, noise)
    weights = exponential(tuple(at.lam for at, _ in points), step.lam, step.next_lam, eta)
    result = decay(step, eta) * x + step.next_alpha * combine(weights, [old for _, old in points])
    if variant == "published" and len(points) == 3:
        result = result - _half_bend(step, points, eta)
    return sde_noise(result, step, eta, s_noise, noise)


def _half_bend(step: Step, points: list[tuple[Step, Latents]], eta: float) -> Latents:
    """Half of what the second difference of three estimates adds to an exponential step of order 3."""
    (now, x0), (before, old), (_, older) = points
    h = step.next_lam - step.lam
    near, wide = (now.lam - before.lam) / h, (before.lam - points[2][0].lam) / h
    second = ((x0 - old) / near - (old - older) / wide) / (near + wide)
    grown = (1 + eta) * h
    return step.next_alpha * (0.5 - (math.expm1(-grown) / grown + 1) / grown) * second


def dpmpp_2s(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 2,
    variant: str = "midpoint",
) -> Latents:
    """DPM-Solver++ single step on the walk's own levels: `order` steps make one of that order. 2211.01095, diffusers.

    Each level is evaluated once, so twice the steps cost as much as `dpmpp_2s_ancestral` at eta 0.
    """
    x0 = denoise(x, step)
    stage = step.index % order if history.points and step.next_sigma > 0 else 0
    if stage == 0 or history.x is None:
        history.points, history.x = [], x
        if not far(step) and step.lam > -math.inf:
            history.remember(step, x0)
        return first_order(x, x0, step)
    history.remember(step, x0)
    start, base = history.points[0]
    whole = start.to(step.next_level)
    if stage == 1 and variant == "midpoint":
        bend = 0.5 * gain(whole.next_alpha, whole.next_lam - whole.lam)
        ratio = (whole.next_lam - whole.lam) / (step.lam - whole.lam)
        return first_order(history.x, base, whole) + bend * ratio * (x0 - base)
    weights = exponential(tuple(at.lam for at, _ in history.points), whole.lam, whole.next_lam)
    values = [old for _, old in history.points]
    return decay(whole) * history.x + whole.next_alpha * combine(weights, values)


def er_sde(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, s_noise: float = 1.0, order: int = 3
) -> Latents:
    """Extended reverse-time SDE solver, ER-SDE-Solver-3. 2309.06169, algorithm 3 with the paper's noise scale."""
    x0 = denoise(x, step)
    if step.next_sigma == 0 or step.lam == -math.inf:
        history.remember(step, x0, keep=2)
        return first_order(x, x0, step)
    here, there = math.exp(-step.lam), math.exp(-step.next_lam)
    ratio = _er_scale(there) / _er_scale(here)
    result = step.next_alpha * (ratio / step.alpha * x + (1 - ratio) * x0)
    known = [(math.exp(-at.lam), old) for at, old in history.points if at.lam > -math.inf]
    if known and order > 1:
        grid = there + (np.arange(200) + 0.5) * (here - there) / 200
        weight = (here - there) / 200 / np.array([_er_scale(float(ratio)) for ratio in grid])
        change, size = (x0 - known[-1][1]) / (here - known[-1][0]), there - here
        result = result + step.next_alpha * (size + float(weight.sum()) * _er_scale(there)) * change
        if len(known) > 1 and order > 2:
            older = (known[-1][1] - known[-2][1]) / (known[-1][0] - known[-2][0])
            bend = (change - older) / ((here - known[-2][0]) / 2)
            moment = float((weight * (grid - here)).sum())
            result = result + step.next_alpha * (size**2 / 2 + moment * _er_scale(there)) * bend
    history.remember(step, x0, keep=2)
    variance = max(there**2 - (here * ratio) ** 2, 0.0)
    return result + step.next_alpha * s_noise * math.sqrt(variance) * noise(step)


def _er_scale(ratio: float) -> float:
    """The paper's noise scale function of sigma / alpha."""
    return ratio * (math.exp(ratio**0.3) + 10)
