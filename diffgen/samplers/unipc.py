"""UniPC (2302.04867): a multistep predictor, corrected by the evaluation the next step needs anyway."""

from __future__ import annotations

import math

import numpy as np

from diffgen.contracts import Denoiser, History, Latents, Noise, Step
from diffgen.samplers.formulas import first_order, order_left


def _residual(
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
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 2, variant: str = "bh2",
    finish: str = "lower",
) -> Latents:
    """Order `order` for the predictor, one more through the corrector, one evaluation a step. Deterministic.

    Args:
        order: of the predictor; the corrector has one more.
        variant: the paper's B(h), "bh1" or "bh2".
    """
    x0 = denoise(x, step)
    before = history.points[-1][0] if history.points else None
    if before is not None and history.x is not None and before.lam > -math.inf:
        x = first_order(history.x, history.points[-1][1], before)
        x = x + _residual(before, history.points, history.order, variant, x0)
    history.remember(step, x0)
    # An estimate made at alpha = 0 lies infinitely far away in lambda and says nothing of the curvature here.
    usable = [point for point in history.points if point[0].lam > -math.inf]
    history.order = max(min(order_left(step, order, finish), len(usable)), 1)
    history.x = x
    if step.lam == -math.inf or step.next_sigma == 0:
        return first_order(x, x0, step)
    return first_order(x, x0, step) + _residual(step, usable, history.order, variant, None)


