"""SA-Solver (2309.05019): stochastic Adams steps, predicted and then corrected by the next step's evaluation."""

from __future__ import annotations

import math

from diffgen.contracts import Denoiser, History, Latents, Noise, Step
from diffgen.samplers.formulas import combine, decay, first_order, order_left, sde_noise
from diffgen.samplers.weights import exponential

Points = list[tuple[Step, Latents]]


def sa_solver(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, eta: float = 1.0,
    s_noise: float = 1.0, order: int = 3, corrector_order: int = 4, eta_start: float = 0.2, eta_stop: float = 0.8,
    variant: str = "exact", finish: str = "auto",
) -> Latents:
    """Predictor and corrector of stochastic Adams type, one evaluation a step. 2309.05019, algorithm 1.

    Args:
        eta: the paper's tau squared.
        order: of the predictor.
        corrector_order: of the corrector, which also knows the new estimate; 0 leaves it out.
        eta_start, eta_stop: where noise enters, as shares of the training time that has passed.
        variant: "simple" replaces the exact weight of the first difference in a step of order 2, as diffusers does.
    """
    x0 = denoise(x, step)
    if history.x is not None and history.points and corrector_order:
        points = [(step, x0), *reversed(history.points)][: history.order]
        x = history.x + _estimates(points, history.points[-1][0], _eta(history.points[-1][0], eta, eta_start, eta_stop),
                                   variant)  # fmt: skip
    eta = _eta(step, eta, eta_start, eta_stop)
    if step.lam == -math.inf or step.next_sigma == 0:
        history.points, history.x = [], None
        return sde_noise(first_order(x, x0, step, eta), step, eta, s_noise, noise)
    keep = max(order, corrector_order - 1, 1)
    history.remember(step, x0, keep=keep)
    points = list(reversed(history.points))
    history.order = min(order_left(step, max(corrector_order - 1, 0), finish), len(points)) + 1
    # What is left of x, with the step's noise: the corrector takes both up again.
    history.x = sde_noise(decay(step, eta) * x, step, eta, s_noise, noise)
    return history.x + _estimates(points[: order_left(step, order, finish)], step, eta, variant)


def _estimates(points: Points, step: Step, eta: float, variant: str) -> Latents:
    """What the estimates `points`, newest first, add to x over `step`."""
    weights = list(exponential(tuple(at.lam for at, _ in points), step.lam, step.next_lam, eta))
    if variant == "simple" and len(points) == 2:
        h = step.next_lam - step.lam
        total, span = sum(weights), points[0][0].lam - points[1][0].lam
        # With the exact weight the first difference enters as its integral; here as half of (1 + eta) h.
        first = (1 + eta) * h * h / 2 / span + (total if points[0][0].lam == step.lam else 0.0)
        weights = [first, total - first]
    return step.next_alpha * combine(weights, [x0 for _, x0 in points])


def _eta(step: Step, eta: float, start: float, stop: float) -> float:
    path = step.path
    first, last = path.time(path.max_level), path.time(path.min_level)
    return eta if start <= (first - step.t) / (first - last) <= stop else 0.0
