"""The schedule `optimal`: levels fitted to a model, and kept beside it.

The measure is the local error of a first-order step. Over a step of length h in lambda = ln(alpha / sigma) it is
h^2 / 2 |d x0 / d lambda| alpha, here as a share of the noised sample's size, sqrt(alpha^2 + sigma^2), and as the root
of the mean square over prompts and latents. The sum over a walk is least where steps are even in the integral of its
root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from diffgen import engine
from diffgen.checkpoints import Model
from diffgen.errors import UsageError
from diffgen.path import NoisePath
from diffgen.pipelines.text_to_image import plan, prepare
from diffgen.schedules.placing import CAP

PROMPTS = ("a red apple", "a cat that sleeps", "a house by the sea", "a portrait of an old man")
NODES = 33


def fit(model: Model, prompts: Sequence[str] = PROMPTS, *, steps: int = 48, seed: int = 0) -> tuple[float, ...]:
    """Levels of `optimal` for `model`, falling, from its highest to its smallest, to be read between.

    Args:
        prompts: drawn once each with `steps` steps even in lambda.

    Raises:
        UsageError: `steps` is below 4, or there are no prompts.
    """
    if steps < 4 or not prompts:
        raise UsageError(f"a fit needs prompts and at least 4 steps; got {len(prompts)} and {steps}")
    path = model.family.path
    lams = np.linspace(max(_lam(path, path.max_level), -math.log(CAP)), _lam(path, path.min_level), steps)
    levels = [path.level_at(float(lam)) for lam in lams]
    total = np.zeros(steps - 1)
    for number, prompt in enumerate(prompts):
        recipes = prepare(
            model, prompt, seed=seed + number, steps=steps, sampler="dpmpp_2m", schedule="custom",
            settings={"levels": levels, "shift": 1.0},
        )  # fmt: skip
        found = [one.x0 for one in engine.run(model.family, plan(model, recipes)[0])]
        total += [float((b - a).square().mean()) for a, b in pairwise(found)]
    return _placed(path, lams, np.sqrt(total / len(prompts)))


def _lam(path: NoisePath, level: float) -> float:
    alpha, sigma = path.coefficients(level)
    return math.log(alpha / sigma) if alpha > 0 else -math.inf


def _placed(path: NoisePath, lams: np.ndarray, change: np.ndarray) -> tuple[float, ...]:
    """Levels even in the root of the local error, from the change of x0 between the lambdas."""
    middle = (lams[1:] + lams[:-1]) / 2
    error = change / np.diff(lams) / np.sqrt(1 + np.exp(-2 * middle))
    # Where x0 hardly moves a step may be long, but not without end.
    density = np.sqrt(np.maximum(error, 0.02 * error.max()))
    passed = np.concatenate([[0.0], np.cumsum(density * np.diff(lams))])
    nodes = np.interp(np.linspace(0, passed[-1], NODES), passed, lams)
    return (path.max_level, *(path.level_at(float(lam)) for lam in nodes[1:]))
