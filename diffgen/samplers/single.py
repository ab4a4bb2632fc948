"""Samplers that look at one step alone. Each is `(denoise, x, step, history, noise, **settings) -> x'`."""

from __future__ import annotations

import math

from diffgen.contracts import Denoiser, History, Latents, Noise, Step
from diffgen.samplers.formulas import along, down_step, far, first_order, middle, renoise, slope
from diffgen.schedules.placing import indices_of


def euler(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """First order, deterministic. Euler on EDM and flow paths, DDIM on a variance-preserving one."""
    return first_order(x, denoise(x, step), step)


def euler_ancestral(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """First order with fresh noise after each step; eta 0 is `euler`. k-diffusion's `sample_euler_ancestral`.

    On a variance-preserving path this is DDIM with the same eta (2010.02502, eq. 16).
    """
    down = down_step(step, eta)
    return renoise(first_order(x, denoise(x, step), down), down, step, noise, s_noise)


def ddim(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 0.0
) -> Latents:
    """DDIM (2010.02502). eta 0 is deterministic, eta 1 is DDPM's variance."""
    return euler_ancestral(denoise, x, step, history, noise, eta=eta)


def ddpm(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Ancestral sampling of DDPM with the posterior variance (2006.11239, algorithm 2)."""
    return euler_ancestral(denoise, x, step, history, noise)


def heun(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Second order, two evaluations a step, one in the last. EDM algorithm 1 without churn (2206.00364)."""
    here = slope(x, denoise(x, step), step)
    guess = along(x, here, step)
    if step.next_level <= 0 or far(step):
        return guess
    end = step.at(step.next_level)
    return along(x, 0.5 * (here + slope(guess, denoise(guess, end), end)), step)


def dpm_2(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Second order through the geometric middle, two evaluations a step. EDM (2206.00364), k-diffusion."""
    return dpm_2_ancestral(denoise, x, step, history, noise, eta=0.0)


def dpm_2_ancestral(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """`dpm_2` to a lower level, then fresh noise. k-diffusion's `sample_dpm_2_ancestral`."""
    down = down_step(step, eta)
    here = slope(x, denoise(x, step), step)
    if down.next_level <= 0:
        return along(x, here, step)
    if far(step):
        return renoise(along(x, here, down), down, step, noise, s_noise)
    half = step.to(math.sqrt(step.level * down.next_level))
    guess, at = along(x, here, half), step.at(half.next_level)
    return renoise(along(x, slope(guess, denoise(guess, at), at), down), down, step, noise, s_noise)


def dpmpp_2s_ancestral(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """DPM-Solver++(2S) with fresh noise (2211.01095, algorithm 1; k-diffusion). Two evaluations a step."""
    down = down_step(step, eta)
    x0, half = denoise(x, step), middle(down)
    if half is not None:
        guess = first_order(x, x0, half)
        x0 = denoise(guess, step.at(half.next_level))
    return renoise(first_order(x, x0, down), down, step, noise, s_noise)


def dpmpp_sde(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """DPM-Solver++ on the reverse SDE, single step (2211.01095; k-diffusion's `sample_dpmpp_sde`, r = 1/2)."""
    x0, half = denoise(x, step), middle(step)
    if half is not None:
        down = down_step(half, eta)
        guess = renoise(first_order(x, x0, down), down, half, noise, s_noise)
        x0 = denoise(guess, step.at(half.next_level))
    down = down_step(step, eta)
    return renoise(first_order(x, x0, down), down, step, noise, s_noise)


def seeds_2(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0, s_noise: float = 1.0
) -> Latents:
    """SEEDS-2: exponential integrator of the reverse SDE, two evaluations a step (2305.14267, algorithm 2)."""
    x0, half = denoise(x, step), middle(step)
    if half is None:
        return euler_ancestral(lambda _x, _step: x0, x, step, history, noise, eta=eta, s_noise=s_noise)
    first = s_noise * noise(half) if eta else 0.0
    second = s_noise * noise(step.at(half.next_level)) if eta else 0.0
    decayed = math.exp(-eta * (half.next_lam - half.lam))
    grown = math.sqrt(1 - decayed**2)
    x0 = denoise(first_order(x, x0, half, eta) + half.next_sigma * grown * first, step.at(half.next_level))
    # The first half's noise has decayed by the end of the step; together the two have the step's variance.
    return first_order(x, x0, step, eta) + step.next_sigma * grown * (decayed * first + second)


def lcm(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Consistency sampling: jump to x0, then noise it to the next level. 2310.04378, algorithm 3."""
    x0 = denoise(x, step)
    return step.next_alpha * x0 + step.next_sigma * noise(step) if step.next_sigma > 0 else step.next_alpha * x0


def tcd(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, gamma: float = 0.3
) -> Latents:
    """Trajectory consistency sampling: step below the next time by `gamma`, then noise back up. 2402.19159.

    Args:
        gamma: 0 is deterministic, 1 is `lcm`. The time below is a whole training index, as the paper's.
    """
    low = 0.0
    if step.next_level > 0 and gamma < 1:
        path, top = step.path, indices_of(step.path) - 1
        first, last = path.time(path.min_level), path.time(path.max_level)
        index = top * (path.time(step.next_level) - first) / (last - first)
        # The sliver keeps a whole index whole after arithmetic that rounds.
        low = path.level(first + math.floor((1 - gamma) * index + 1e-6) / top * (last - first))
    down = step.to(min(low, step.next_level))
    return renoise(first_order(x, denoise(x, step), down), down, step, noise, 1.0)
