"""What can be put around a sampler, whichever it is: churn before the step, a better start for a multistep one."""

from __future__ import annotations

import math

from diffgen.contracts import Denoiser, History, Latents, Noise, Sampler, Step
from diffgen.samplers.formulas import along, far, renoise, slope


def raised(x: Latents, step: Step, level: float, noise: Noise, s_noise: float) -> tuple[Latents, Step]:
    """(x, step) with the start of `step` taken up to `level` by fresh noise."""
    here, up = step.to(step.level), step.to(level)
    return renoise(x, here, up, noise, s_noise), step.at(level)


def churned(
    sampler: Sampler, s_churn: float, s_tmin: float = 0.0, s_tmax: float = 0.0, s_noise: float = 1.0
) -> Sampler:
    """`sampler` with fresh noise before each step (EDM 2206.00364, algorithm 2).

    Args:
        s_churn: total amount; a step's share raises sigma / alpha by the factor 1 + min(s_churn / steps, sqrt(2) - 1).
        s_tmin, s_tmax: the range of sigma / alpha where it is done, EDM's sigma on every path; 0 is without end.
        s_noise: factor on the noise.
    """

    def run(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
        gamma = min(s_churn / step.count, math.sqrt(2) - 1)
        ratio = math.exp(-step.lam) if step.alpha > 0 else math.inf
        if gamma > 0 and ratio < math.inf and s_tmin <= ratio <= (s_tmax or math.inf):
            level = step.path.level_at(step.lam - math.log1p(gamma))
            # No network was trained above the path's own noise.
            if step.level < level <= step.path.max_level:
                x, step = raised(x, step, level, noise, s_noise)
        return sampler(denoise, x, step, history, noise)

    return run


def warmed(sampler: Sampler, needed: int) -> Sampler:
    """`sampler`, whose steps are corrected as in `heun` until `needed` earlier evaluations are known.

    A multistep sampler otherwise begins with a step of order 1, whose error stays to the end. Each corrected step
    costs one evaluation more.
    """

    def run(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
        warm = len(history.points) < needed
        seen: list[Latents] = []

        def watched(x: Latents, at: Step) -> Latents:
            seen.append(denoise(x, at))
            return seen[-1]

        guess = sampler(watched, x, step, history, noise)
        if not warm or step.next_level <= 0 or far(step):
            return guess
        end = step.at(step.next_level)
        return along(x, 0.5 * (slope(x, seen[0], step) + slope(guess, denoise(guess, end), end)), step)

    return run
