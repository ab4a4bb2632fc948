"""What the samplers share: the one step formula, its pieces, and the fresh noise of the ancestral ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from diffgen.contracts import Latents, Noise, Step
from diffgen.path import blend


def decay(step: Step, eta: float = 0.0) -> float:
    """What is left of x after the step: sigma' / sigma, and less on the reverse SDE, whose fresh noise replaces it."""
    ratio = step.next_sigma / step.sigma
    return ratio * math.exp(-eta * (step.next_lam - step.lam)) if eta and ratio else ratio


def first_order(x: Latents, x0: Latents, step: Step, eta: float = 0.0) -> Latents:
    """The step formula all samplers share: exact while x0 stays the same.

    DDIM (2010.02502) on a variance-preserving path, Euler on EDM and flow paths. With `eta` above 0 it is the drift
    of the reverse SDE (2211.01095, section 5), whose noise `sde_noise` adds.
    """
    keep = decay(step, eta)
    if eta:
        return blend(x, keep, x0, gain(step.next_alpha, (1 + eta) * (step.next_lam - step.lam)))
    return blend(x, keep, x0, step.next_alpha - step.alpha * keep)


def gain(alpha: float, exponent: float) -> float:
    """alpha (1 - exp(-exponent)), the weight of x0 in exponential integrators; finite at infinity."""
    return -alpha * math.expm1(-exponent)


def order_left(step: Step, order: int, finish: str) -> int:
    """The order a multistep sampler may have at `step`.

    With `finish` "lower" it falls by one a step to 1 in the last; "full" keeps it; "auto" is "lower" in walks of fewer
    than 15 steps, as in diffusers. Into sigma 0, where lambda is infinite, only order 1 is defined.
    """
    if step.next_sigma == 0:
        return 1
    lower = finish == "lower" or (finish == "auto" and step.count < 15)
    return min(order, step.count - step.index) if lower else order


def scale_of(sigma: float, level: float) -> float:
    """What x is divided by to integrate it over the level: sigma = level * scale."""
    return sigma / level if level > 0 else 1.0


def slope(x: Latents, x0: Latents, step: Step) -> Latents:
    """d(x / scale) / d level along the probability-flow ODE, at the start of `step`.

    In these variables the ODE has no linear term on any path: EDM's variables on variance-preserving and EDM
    paths (2206.00364, eq. 3), and the straight line's on a flow path.
    """
    return blend(x, 1 / step.sigma, x0, -1 / step.level)


def far(step: Step) -> bool:
    """Whether the start is next to pure noise at zero terminal SNR, where the level grows without bound.

    A slope averaged over such a step is worth nothing, so second-order samplers take its first-order part.
    """
    return scale_of(step.sigma, step.level) < 1e-3


def along(x: Latents, direction: Latents, step: Step) -> Latents:
    """x at the end of `step` after moving along a constant `direction` of `slope`'s kind."""
    scale = scale_of(step.next_sigma, step.next_level) if step.next_level > 0 else step.next_alpha
    return blend(x, scale / scale_of(step.sigma, step.level), direction, scale * (step.next_level - step.level))


def down_step(step: Step, eta: float) -> Step:
    """The deterministic part of an ancestral step: it overshoots to a level below, and `renoise` comes back up.

    k-diffusion's rule, level_down^2 = next^2 (1 - eta^2 (1 - (next / level)^2)). At eta 1 this is DDPM's
    posterior variance on a variance-preserving path and the flow models' own form on a flow path.
    """
    share = 1 - eta**2 * (1 - (step.next_level / step.level) ** 2)
    return step.to(step.next_level * math.sqrt(max(share, 0.0)))


def renoise(x: Latents, down: Step, step: Step, noise: Noise, s_noise: float) -> Latents:
    """From the end of `down` up to the end of `step` with fresh noise; without any where both are the same."""
    keep = step.next_alpha / down.next_alpha
    fresh = math.sqrt(max(step.next_sigma**2 - (keep * down.next_sigma) ** 2, 0.0))
    return (keep * x).add_(noise(step), alpha=fresh * s_noise) if fresh > 0 else x


def middle(step: Step, part: float = 0.5) -> Step | None:
    """The step from the start to the point `part` of the way in lambda; None where an end is infinitely far."""
    if math.isinf(step.lam) or math.isinf(step.next_lam):
        return None
    return step.to(step.path.level_at(step.lam + part * (step.next_lam - step.lam)))


def sde_noise(x: Latents, step: Step, eta: float, s_noise: float, noise: Noise) -> Latents:
    """`x` with the noise of the reverse SDE over `step`: sigma' sqrt(1 - exp(-2 eta h)) s_noise noise."""
    if not eta or step.next_sigma == 0:
        return x
    h = step.next_lam - step.lam
    return x.add(noise(step), alpha=step.next_sigma * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise)


def combine(weights: Sequence[float], values: Sequence[Latents]) -> Latents:
    """The weighted sum of `values`."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total.add_(value, alpha=weight)
    return total
