"""Restart sampling (2306.14878): the middle of the way is walked again, from fresh noise."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from diffgen.contracts import Denoiser, History, Latents, Noise, Step
from diffgen.samplers.around import raised
from diffgen.samplers.single import heun


def restart(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, restarts: int = 1,
    restart_steps: int = 9, restart_min: float = 0.1, restart_max: float = 2.0, s_noise: float = 1.0,
) -> Latents:
    """`heun`, and once the walk has come down to `restart_min`: up to `restart_max` by noise, and down again.

    Args:
        restarts: how often.
        restart_steps: steps of `heun` down again, spaced as in `karras`.
        restart_min, restart_max: sigma / alpha where it begins and up to where it goes, EDM's sigma on every path.
    """
    last = step.next_sigma == 0
    low = step if last else step.at(step.next_level)
    due = step.alpha > 0 and math.exp(-step.lam) > restart_min and (last or math.exp(-low.lam) <= restart_min)
    if not last:
        x = heun(denoise, x, step, history, noise)
    high = min(step.path.level_at(-math.log(restart_max)), step.path.max_level)
    if due and high > low.level:
        levels = _between(low, high, restart_steps)
        for _ in range(restarts):
            x, _ = raised(x, low, high, noise, s_noise)
            for inner in pairwise(levels):
                x = heun(denoise, x, Step.between(step.path, *inner, step.index, step.count), history, noise)
    return heun(denoise, x, step, history, noise) if last else x


def _between(low: Step, high: float, count: int) -> list[float]:
    """count + 1 levels from `high` down to that of `low`, even in (sigma / alpha)^(1/7) as `karras`."""
    top = math.exp(-Step.between(low.path, high, 0.0).lam)
    ratios = np.linspace(top ** (1 / 7), math.exp(-low.lam) ** (1 / 7), count + 1) ** 7
    return [high, *(low.path.level_at(-math.log(ratio)) for ratio in ratios[1:-1]), low.level]
