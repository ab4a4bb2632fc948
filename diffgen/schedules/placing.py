"""Where the levels of each schedule lie: `(path, count, settings) -> count falling levels`, without the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diffgen.errors import UsageError, unknown
from diffgen.path import NoisePath


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """What tunes a schedule. Each has one meaning for every schedule that uses it.

    Attributes:
        rho: curvature of `karras` (7 unless given; 1 is linear in sigma) and `polyexponential` (1 unless given).
        alpha, beta: shape of `beta`'s distribution (2407.12173).
        shift: multiplies sigma / alpha at every level; above 1 spends more steps at high noise (SD 3, 2403.03206).
        offset: added to the training index of `leading`, diffusers' `steps_offset`.
        final: end at level 0 ("zero") or at the smallest trained level ("min").
        span: what `karras`, `exponential` and `beta` stretch over: the whole path, as k-diffusion and ComfyUI
            do, or the ends of diffusers' `linspace`, `leading` or `trailing` spacing, as its Euler scheduler does.
        terminal: above 0, stretches the shifted levels so that the last one before `final` is this one while the
            first one stays (LTX-Video, 2501.00103; Qwen-Image).
        start: pure noise enters with standard deviation 1 ("unit"), or with the path's own sigma at the first
            level ("sigma"), as A1111 and diffusers' Euler scheduler do on a path that never reaches pure noise.
        top: the highest level a walk may begin at, as a share of the path's. Just below 1 it gives a multistep
            sampler on a flow path a finite ln(alpha / sigma) to begin with, as diffusers' flow UniPC does.
        levels: the levels of `custom` and `optimal`, falling, without the end.
        sigma_min, sigma_max: ends of what is stretched over the whole path, as sigma / alpha; 0 is the path's own.
        discard_penultimate: one level more is placed and the last one left out, as A1111 and ComfyUI do with some
            samplers.
        denoise_start, denoise_end: the part of the walk that is taken, in shares of the training time: steps that
            begin at or after the one and before the other. Two walks that share a border make one whole walk.
    """

    rho: float | None = None
    alpha: float = 0.6
    beta: float = 0.6
    shift: float = 1.0
    offset: int = 0
    final: Literal["zero", "min"] = "zero"
    span: str = "path"
    terminal: float = 0.0
    start: Literal["unit", "sigma"] = "unit"
    top: float = 1.0
    levels: tuple[float, ...] = ()
    sigma_min: float = 0.0
    sigma_max: float = 0.0
    discard_penultimate: bool = False
    denoise_start: float = 0.0
    denoise_end: float = 1.0


# Where stretched schedules begin after pure noise on a path of zero terminal SNR, whose own last level is 4,096: they
# would spend half of their steps where a network sees nothing but noise. EDM's (2206.00364, table 1).
CAP = 80.0

Place = Callable[[NoisePath, int, ScheduleSettings], np.ndarray]


def _ends(path: NoisePath, count: int, settings: ScheduleSettings) -> tuple[float, float]:
    if settings.span == "path":
        high = path.level_at(-math.log(settings.sigma_max)) if settings.sigma_max > 0 else path.max_level
        low = path.level_at(-math.log(settings.sigma_min)) if settings.sigma_min > 0 else path.min_level
        if not 0 < low < high <= path.max_level * (1 + 1e-9):
            raise UsageError(
                f"sigma_min and sigma_max must rise and stay on the path; got {settings.sigma_min:g} and "
                f"{settings.sigma_max:g}"
            )
        return high, low
    if settings.span not in _SPANS:
        raise unknown("schedule span", settings.span, ["path", *_SPANS])
    spaced = _SPANS[settings.span](path, count, settings)
    return float(spaced[0]), float(spaced[-1])


def _times(path: NoisePath, times: np.ndarray) -> np.ndarray:
    return np.array([path.level(float(time)) for time in times])


def _range(path: NoisePath) -> tuple[float, float]:
    return path.time(path.max_level), path.time(path.min_level)


def normal(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Even in training time, both ends included."""
    return _times(path, np.linspace(*_range(path), count))


def linspace_open(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Even in whole training indices, the lowest left out: diffusers' linspace of DPM++ and UniPC."""
    return _at_indices(path, np.linspace(indices_of(path) - 1, 0, count + 1).round()[:-1])


def sgm_uniform(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Even in training time, the lowest left out."""
    return _times(path, np.linspace(*_range(path), count + 1)[:-1])


def even(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Even in the level itself, from the highest down to, but without, 0."""
    return np.linspace(path.max_level, 0.0, count + 1)[:-1]


def indices_of(path: NoisePath) -> int:
    """How many training indices the path has; flow and EDM paths count as 1,000, as their schedulers do."""
    return len(getattr(path, "alphas_cumprod", ())) or 1000


def _at_indices(path: NoisePath, indices: np.ndarray) -> np.ndarray:
    top = indices_of(path) - 1
    high, low = _range(path)
    return _times(path, low + np.clip(indices, 0, top) / top * (high - low))


def leading(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Every (indices / count)-th training index from 0 up, plus `offset`: diffusers' leading spacing."""
    return _at_indices(path, np.arange(count)[::-1] * (indices_of(path) // count) + settings.offset)


def trailing(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Every (indices / count)-th training index from the last one down: diffusers' trailing spacing."""
    total = indices_of(path)
    return _at_indices(path, np.arange(total, 0, -total / count)[:count].round() - 1)


def simple(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Whole training indices from the last one down, as ComfyUI places them."""
    total = indices_of(path)
    return _at_indices(path, total - 1 - np.floor(np.arange(count) * total / count))


def trig(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    alpha, sigma = path.coefficients(path.max_level)
    # The first turn is left out: where there is no signal, ln(alpha / sigma) is no number.
    turns = np.linspace(math.atan2(sigma, alpha), 0, count + 1)[1:-1]
    return np.array([path.max_level, *(path.level_at(-math.log(math.tan(turn))) for turn in turns)])


def after_noise(place: Place) -> Place:
    """`place`, which on a path of zero terminal SNR begins with pure noise and goes on from `CAP`."""

    def placed(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
        pure = getattr(path, "alphas_cumprod", (1.0,))[-1] == 0
        if not pure or settings.span != "path" or settings.sigma_max:
            return place(path, count, settings)
        rest = place(path, count - 1, replace(settings, sigma_max=CAP)) if count > 1 else np.empty(0)
        return np.array([path.max_level, *rest])

    return placed


def karras(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Even in level^(1 / rho). 2206.00364, eq. 5."""
    rho = 7.0 if settings.rho is None else settings.rho
    high, low = (end ** (1 / rho) for end in _ends(path, count, settings))
    return np.linspace(high, low, count) ** rho


def exponential(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Even in ln(level)."""
    high, low = _ends(path, count, settings)
    return np.exp(np.linspace(math.log(high), math.log(low), count))


def beta(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Quantiles of a beta distribution over training time: more steps at both ends. 2407.12173."""
    from scipy.stats import beta  # 0.3 s to import, and only this schedule needs it

    quantiles = beta.ppf(1 - np.linspace(0, 1, count), settings.alpha, settings.beta)
    if settings.span == "path":
        return _at_indices(path, quantiles * (indices_of(path) - 1))
    high, low = _ends(path, count, settings)
    return low + quantiles * (high - low)


def ddim_uniform(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Every (indices / count)-th training index, from the second on: ComfyUI's spacing of that name."""
    return _at_indices(path, np.arange(count)[::-1] * (indices_of(path) // count) + 1)


def polyexponential(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Polynomial in ln(level), k-diffusion's `get_sigmas_polyexponential`; rho 1 is `exponential`."""
    high, low = _ends(path, count, settings)
    ramp = np.linspace(1, 0, count) ** (1.0 if settings.rho is None else settings.rho)
    return np.exp(math.log(low) + ramp * (math.log(high) - math.log(low)))


def kl_optimal(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Even in arctan(level): the closed form of "Align Your Steps" for Gaussian data (2404.14507, theorem 3.1)."""
    high, low = _ends(path, count, settings)
    return np.tan(np.linspace(math.atan(high), math.atan(low), count))


def cosine(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Half a cosine from the highest level to the lowest: slow at both ends."""
    high, low = _ends(path, count, settings)
    return low + (high - low) * (1 + np.cos(np.linspace(0, math.pi, count))) / 2


def linear_quadratic(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Small even steps at first, then quadratically growing ones: Movie Gen (2410.13720, 3.5), as LTX and Mochi use.

    The first half of the steps covers the first 2.5 % of the way.
    """
    first, near = max(count // 2, 1), 0.025
    rest = count - first
    if rest == 0:
        return np.linspace(path.max_level, 0, count + 1)[:-1]
    lack = first - near * count
    square = lack / (first * rest**2)
    slope = near / first - 2 * lack / rest**2
    steps = np.arange(count, dtype=float)
    way = np.where(steps < first, steps * near / first, square * steps**2 + slope * steps + square * first**2)
    return path.max_level * (1 - way)


# Levels found by optimising the KL bound for each model, at 10 steps. 2404.14507, appendix D.
_ALIGNED = {
    "ays": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "ays_sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "ays_svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


def aligned(name: str) -> Place:
    """The published levels of that model, put between by ln(level) for other numbers of steps, as ComfyUI does."""

    def place(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
        logs = np.log(_ALIGNED[name])
        between = np.interp(np.linspace(0, 1, count + 1), np.linspace(0, 1, len(logs)), logs)[:-1]
        # The published ends are rounded; a model's own path may end a little before them.
        return np.array([min(path.level_at(-ratio), path.max_level) for ratio in between])

    return place


def bong_tangent(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Two arcs of a tangent over training time that meet in the middle, in the form of RES4LYF."""
    total = count + 2
    pivot, slope = int(total * 0.6), 0.2 / (total / 40)
    shares = np.concatenate([_arc(pivot, slope, pivot, 1.0, 0.5)[:-1], _arc(total - pivot, slope, 0, 0.5, 0.0)])[:-1]
    shares[0] = 1.0
    high, low = _range(path)
    return _times(path, low + shares * (high - low))


def _arc(count: int, slope: float, pivot: int, start: float, stop: float) -> np.ndarray:
    """`count` values from `start` to `stop` along an arctangent whose middle is at `pivot`."""
    curve = np.arctan(-slope * (np.arange(count) - pivot))
    reach = curve[0] - curve[-1]
    return stop + (curve - curve[-1]) / (reach if reach else 1.0) * (start - stop)


def custom(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """The levels given in `settings.levels`; another number of steps is put between them by ln(level).

    Raises:
        UsageError: no levels were given, or one is not above 0.
    """
    if not settings.levels or min(settings.levels) <= 0:
        raise UsageError(f"schedule 'custom' needs falling levels above 0 in 'levels'; got {list(settings.levels)}")
    logs = np.log(np.asarray(settings.levels, dtype=float))
    return np.exp(np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(logs)), logs))


def optimal(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    """Levels fitted to a model (`diffgen.pipelines.fitting`), which lie `even` in what it found hard.

    Raises:
        UsageError: none were fitted.
    """
    if not settings.levels:
        raise UsageError("schedule 'optimal' needs levels fitted to the model; `diffgen samplers --fit MODEL` does it")
    logs = np.log(np.asarray(settings.levels, dtype=float))
    return np.exp(np.interp(np.linspace(0, 1, count + 1), np.linspace(0, 1, len(logs)), logs))[:-1]


_SPANS: dict[str, Place] = {"linspace": normal, "leading": leading, "trailing": trailing}
