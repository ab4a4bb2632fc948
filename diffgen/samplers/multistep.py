"""Samplers that reuse earlier evaluations: one evaluation a step, an order above one."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from diffgen.contracts import Denoiser, History, Latents, Noise, Step
from diffgen.samplers.formulas import along, combine, far, first_order, gain, sde_noise, slope


def dpmpp_2m(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """DPM-Solver++(2M), second order, deterministic. 2211.01095, algorithm 2."""
    return dpmpp_2m_sde(denoise, x, step, history, noise, eta=0.0)


def _lower(step: Step) -> bool:
    """Whether the last step is of first order: where it reaches sigma 0, and for few steps, as in diffusers."""
    return step.index == step.count - 1 and (step.next_sigma == 0 or step.count < 15)


def dpmpp_2m_sde(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """DPM-Solver++(2M) on the reverse SDE, midpoint form. 2211.01095, section 5; eta as in k-diffusion."""
    x0 = denoise(x, step)
    h = step.next_lam - step.lam
    weight = gain(step.next_alpha, (1 + eta) * h)
    shrink = math.exp(-eta * h) if eta else 1.0
    result = step.next_sigma / step.sigma * shrink * x + weight * x0
    if history.points and not _lower(step):
        before, old = history.points[-1]
        result = result + 0.5 * weight * (h / (step.lam - before.lam)) * (x0 - old)
    history.remember(step, x0, keep=1)
    return sde_noise(result, step, eta, s_noise, noise)


def dpmpp_3m_sde(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """DPM-Solver++(3M) on the reverse SDE, in k-diffusion's `sample_dpmpp_3m_sde` form."""
    x0 = denoise(x, step)
    h = step.next_lam - step.lam
    grown = (1 + eta) * h
    shrink = math.exp(-eta * h) if eta else 1.0
    result = step.next_sigma / step.sigma * shrink * x + gain(step.next_alpha, grown) * x0
    known = [(at, old) for at, old in history.points if at.lam > -math.inf]
    if known and step.next_sigma > 0 and step.lam > -math.inf:
        phi2 = math.expm1(-grown) / grown + 1
        near = (step.lam - known[-1][0].lam) / h
        first = (x0 - known[-1][1]) / near
        if len(known) > 1:
            far = (known[-1][0].lam - known[-2][0].lam) / h
            earlier = (known[-1][1] - known[-2][1]) / far
            second = (first - earlier) / (near + far)
            result = result - step.next_alpha * (phi2 / grown - 0.5) * second
            first = first + second * near
        result = result + step.next_alpha * phi2 * first
    history.remember(step, x0, keep=2)
    return sde_noise(result, step, eta, s_noise, noise)


def res_multistep(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Refined exponential solver, second-order multistep, deterministic. 2308.02157, section 3.2."""
    x0 = denoise(x, step)
    result = first_order(x, x0, step)
    if history.points and step.next_sigma > 0 and history.points[-1][0].lam > -math.inf:
        before, old = history.points[-1]
        h = step.next_lam - step.lam
        phi2 = (math.expm1(-h) / -h - 1) / -h
        result = result + step.next_alpha * h * phi2 * (h / (step.lam - before.lam)) * (x0 - old)
    history.remember(step, x0, keep=1)
    return result


def _recent(history: History, step: Step, value: Latents, keep: int) -> list[tuple[Step, Latents]]:
    """Remembers `value` at `step`; then the last values, newest first.

    Of earlier ones, those made where next to no signal was left are passed over: their slope is rounding.
    """
    usable = [(at, old) for at, old in reversed(history.points) if at.alpha > 1e-3]
    history.remember(step, value, keep=keep)
    return [(step, value), *usable][:keep]


ADAMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 4
) -> Latents:
    """Improved PNDM: Adams-Bashforth weights on the slope, as for even steps. DEIS (2204.13902), section 3.3."""
    slopes = [value for _, value in _recent(history, step, slope(x, denoise(x, step), step), order)]
    return along(x, combine(ADAMS[len(slopes) - 1], slopes), step)


def lms(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 4
) -> Latents:
    """Linear multistep: the polynomial through the last slopes, integrated over the level. k-diffusion."""
    points = _recent(history, step, slope(x, denoise(x, step), step), order)
    weights = _lagrange(tuple(at.level for at, _ in points), step.level, step.next_level)
    size = step.next_level - step.level
    return along(x, combine([w / size for w in weights], [value for _, value in points]), step)


@lru_cache(maxsize=1024)
def _lagrange(nodes: tuple[float, ...], start: float, stop: float) -> tuple[float, ...]:
    """The integrals from `start` to `stop` of the Lagrange polynomials of `nodes`."""
    out = []
    for k, node in enumerate(nodes):
        others = [other for other in nodes if other != node]
        basis = np.polynomial.Polynomial.fromroots(others) if others else np.polynomial.Polynomial([1.0])
        integral = basis.integ()
        out.append(float((integral(stop) - integral(start)) / math.prod(nodes[k] - other for other in others)))
    return tuple(out)


def deis(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 3
) -> Latents:
    """DEIS: the polynomial through the last slopes in ln(level), integrated over the level. 2204.13902, tAB."""
    points = _recent(history, step, slope(x, denoise(x, step), step), order)
    if _lower(step) or step.next_level <= 0:
        points = points[:1]
    weights = _log_lagrange(tuple(math.log(at.level) for at, _ in points), step.level, step.next_level)
    size = step.next_level - step.level
    return along(x, combine([w / size for w in weights], [value for _, value in points]), step)


@lru_cache(maxsize=1024)
def _log_lagrange(nodes: tuple[float, ...], start: float, stop: float) -> tuple[float, ...]:
    """The integrals over the level, from `start` to `stop`, of Lagrange polynomials in its logarithm.

    The integral of ln(s)^n is s times a polynomial in ln(s): with L the polynomial, s (L - L' + L'' - ...).
    """
    if len(nodes) == 1:
        return (stop - start,)
    out = []
    for k, node in enumerate(nodes):
        others = [other for other in nodes if other != node]
        part = np.polynomial.Polynomial.fromroots(others)
        total, sign = np.polynomial.Polynomial([0.0]), 1.0
        for _ in nodes:
            total, part, sign = total + sign * part, part.deriv(), -sign
        value = stop * total(math.log(stop)) - start * total(math.log(start))
        out.append(float(value / math.prod(nodes[k] - other for other in others)))
    return tuple(out)


def plms(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Pseudo linear multistep (PNDM without Runge-Kutta, 2202.09778): `ipndm` with a first step of two evaluations.

    On a variance-preserving path the slope is the noise estimate, and this is the paper's form.
    """
    first = not history.points
    here = slope(x, denoise(x, step), step)
    slopes = [value for _, value in _recent(history, step, here, 4)]
    if first and step.next_level > 0 and not far(step):
        end, guess = step.at(step.next_level), along(x, here, step)
        return along(x, 0.5 * (here + slope(guess, denoise(guess, end), end)), step)
    return along(x, combine(ADAMS[len(slopes) - 1], slopes), step)


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
