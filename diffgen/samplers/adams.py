"""Adams samplers: the slopes of earlier steps, weighted. One evaluation a step, an order above one."""

from __future__ import annotations

from diffgen.contracts import Denoiser, History, Latents, Noise, Step
from diffgen.samplers.around import warmed
from diffgen.samplers.formulas import along, combine, order_left, slope
from diffgen.samplers.weights import adams, logarithmic

# The weights for even steps, by order.
EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _recent(
    history: History, step: Step, value: Latents, order: int, finish: str
) -> tuple[list[Step], list[Latents]]:
    """Remembers the slope at `step`; then (places, slopes) of those to use, newest first.

    Of earlier ones, those made where next to no signal was left are passed over: their slope is rounding.
    """
    usable = [(at, old) for at, old in reversed(history.points) if at.alpha > 1e-3]
    history.remember(step, value, keep=order)
    # A slope has a value at level 0 too, so that only a finish that was asked for lowers the order there.
    left = order if finish == "full" else order_left(step, order, finish)
    points = [(step, value), *usable][:left]
    return [at for at, _ in points], [slope for _, slope in points]


def ipndm(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 4, finish: str = "full"
) -> Latents:
    """Improved PNDM: Adams-Bashforth weights on the slope, as for even steps. DEIS (2204.13902), section 3.3."""
    _, slopes = _recent(history, step, slope(x, denoise(x, step), step), order, finish)
    return along(x, combine(EVEN[len(slopes) - 1], slopes), step)


def plms(denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise) -> Latents:
    """Pseudo linear multistep (PNDM without Runge-Kutta, 2202.09778): `ipndm` with a first step of two evaluations.

    On a variance-preserving path the slope is the noise estimate, and this is the paper's form.
    """
    return warmed(ipndm, 1)(denoise, x, step, history, noise)


def lms(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 4, finish: str = "full"
) -> Latents:
    """Linear multistep: the polynomial through the last slopes, integrated over the level. k-diffusion."""
    places, slopes = _recent(history, step, slope(x, denoise(x, step), step), order, finish)
    weights = adams(tuple(at.level for at in places), step.level, step.next_level)
    size = step.next_level - step.level
    return along(x, combine([w / size for w in weights], slopes), step)


def deis(
    denoise: Denoiser, x: Latents, step: Step, history: History, noise: Noise, *, order: int = 3, finish: str = "auto"
) -> Latents:
    """DEIS: the polynomial through the last slopes in ln(level), integrated over the level. 2204.13902, tAB."""
    places, slopes = _recent(history, step, slope(x, denoise(x, step), step), order, finish)
    if step.next_level <= 0:
        return along(x, slopes[0], step)
    weights = logarithmic(tuple(at.level for at in places), step.level, step.next_level)
    size = step.next_level - step.level
    return along(x, combine([w / size for w in weights], slopes), step)
