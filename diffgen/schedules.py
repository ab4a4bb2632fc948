"""Where on the path to step: n + 1 falling noise levels, the last one 0 or the smallest trained level.

A schedule is `(path, count, settings) -> levels`, without the last one. `levels` joins the parts: it places
the levels, shifts them and ends them. The names are ComfyUI's and A1111's; `linspace`, `leading` and
`trailing` are diffusers' timestep spacings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from diffgen.errors import UsageError, unknown
from diffgen.path import NoisePath


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """What tunes a schedule. Each has one meaning for every schedule that uses it.

    Attributes:
        rho: curvature of `karras`; 1 is linear in sigma.
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
    """

    rho: float = 7.0
    alpha: float = 0.6
    beta: float = 0.6
    shift: float = 1.0
    offset: int = 0
    final: Literal["zero", "min"] = "zero"
    span: str = "path"
    terminal: float = 0.0
    start: Literal["unit", "sigma"] = "unit"
    top: float = 1.0


Place = Callable[[NoisePath, int, ScheduleSettings], np.ndarray]


def _ends(path: NoisePath, count: int, settings: ScheduleSettings) -> tuple[float, float]:
    if settings.span == "path":
        return path.max_level, path.min_level
    if settings.span not in SCHEDULES:
        raise unknown("schedule span", settings.span, ["path", "linspace", "leading", "trailing"])
    spaced = SCHEDULES[settings.span].place(path, count, settings)
    return float(spaced[0]), float(spaced[-1])


def _times(path: NoisePath, times: np.ndarray) -> np.ndarray:
    return np.array([path.level(float(time)) for time in times])


def _range(path: NoisePath) -> tuple[float, float]:
    return path.time(path.max_level), path.time(path.min_level)


def _normal(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    return _times(path, np.linspace(*_range(path), count))


def _linspace_open(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    return _at_indices(path, np.linspace(_indices(path) - 1, 0, count + 1).round()[:-1])


def _sgm_uniform(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    return _times(path, np.linspace(*_range(path), count + 1)[:-1])


def _uniform(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    return np.linspace(path.max_level, 0.0, count + 1)[:-1]


def _indices(path: NoisePath) -> int:
    """How many training indices the path has; flow and EDM paths count as 1,000, as their schedulers do."""
    return len(getattr(path, "alphas_cumprod", ())) or 1000


def _at_indices(path: NoisePath, indices: np.ndarray) -> np.ndarray:
    top = _indices(path) - 1
    high, low = _range(path)
    return _times(path, low + np.clip(indices, 0, top) / top * (high - low))


def _leading(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    return _at_indices(path, np.arange(count)[::-1] * (_indices(path) // count) + settings.offset)


def _trailing(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    total = _indices(path)
    return _at_indices(path, np.arange(total, 0, -total / count)[:count].round() - 1)


def _simple(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    total = _indices(path)
    return _at_indices(path, total - 1 - np.floor(np.arange(count) * total / count))


def _trig(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    alpha, sigma = path.coefficients(path.max_level)
    # The first turn is left out: where there is no signal, ln(alpha / sigma) is no number.
    turns = np.linspace(math.atan2(sigma, alpha), 0, count + 1)[1:-1]
    return np.array([path.max_level, *(path.level_at(-math.log(math.tan(turn))) for turn in turns)])


def _karras(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    high, low = (end ** (1 / settings.rho) for end in _ends(path, count, settings))
    return np.linspace(high, low, count) ** settings.rho


def _exponential(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    high, low = _ends(path, count, settings)
    return np.exp(np.linspace(math.log(high), math.log(low), count))


def _beta(path: NoisePath, count: int, settings: ScheduleSettings) -> np.ndarray:
    from scipy.stats import beta  # 0.3 s to import, and only this schedule needs it

    quantiles = beta.ppf(1 - np.linspace(0, 1, count), settings.alpha, settings.beta)
    if settings.span == "path":
        return _at_indices(path, quantiles * (_indices(path) - 1))
    high, low = _ends(path, count, settings)
    return low + quantiles * (high - low)


@dataclass(frozen=True, kw_only=True)
class ScheduleInfo:
    """A row of the table that `diffgen samplers` prints."""

    place: Place
    label: str
    good_for: str
    settings: tuple[str, ...] = field(default=("shift", "terminal", "final"))


_STRETCHED = ("span", "shift", "terminal", "final")
SCHEDULES: dict[str, ScheduleInfo] = {
    "normal": ScheduleInfo(place=_normal, label="Normal", good_for="even in training time, both ends included"),
    "linspace": ScheduleInfo(place=_normal, label="Linspace", good_for="diffusers' linspace spacing of Euler"),
    "linspace_open": ScheduleInfo(
        place=_linspace_open, label="Linspace open", good_for="diffusers' linspace spacing of DPM++ and UniPC"),
    "leading": ScheduleInfo(
        place=_leading, label="Leading", settings=("offset", "shift", "terminal", "final"),
        good_for="published results of SD 1 and SDXL"),
    "trailing": ScheduleInfo(place=_trailing, label="Trailing", good_for="zero-terminal-SNR and few-step models"),
    "simple": ScheduleInfo(place=_simple, label="Simple", good_for="flow models"),
    "sgm_uniform": ScheduleInfo(place=_sgm_uniform, label="SGM Uniform", good_for="few-step models"),
    "uniform": ScheduleInfo(place=_uniform, label="Uniform", good_for="flow models: even in the level itself"),
    "trig": ScheduleInfo(
        place=_trig, label="Trig", good_for="consistency models: even in the angle atan(sigma / alpha) (2410.11081)"),
    "karras": ScheduleInfo(
        place=_karras, label="Karras", settings=("rho", *_STRETCHED), good_for="fine detail (2206.00364)"),
    "exponential": ScheduleInfo(
        place=_exponential, label="Exponential", settings=_STRETCHED, good_for="even in ln sigma"),
    "beta": ScheduleInfo(
        place=_beta, label="Beta", settings=("alpha", "beta", *_STRETCHED),
        good_for="more steps at both ends (2407.12173)"),
}  # fmt: skip


def settings_from(name: str, values: Mapping[str, Any]) -> ScheduleSettings:
    """The settings of schedule `name` from plain values.

    Raises:
        UsageError: the schedule or a setting is unknown.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    strange = sorted(set(values) - {f.name for f in fields(ScheduleSettings)})
    if strange:
        raise unknown("schedule setting", strange[0], [f.name for f in fields(ScheduleSettings)])
    return replace(ScheduleSettings(), **values)


def start_scale(path: NoisePath, level: float, settings: ScheduleSettings) -> float:
    """What unit noise is multiplied with to begin a walk at `level`."""
    sigma = path.coefficients(level)[1]
    # An exploding path has no unit-variance form: its noise is sigma by definition.
    return sigma if settings.start == "sigma" or sigma > 1 else 1.0


def shifted(path: NoisePath, level: float, shift: float) -> float:
    """The level whose sigma / alpha is `shift` times that of `level`; the ends of the path stay."""
    alpha, sigma = path.coefficients(level)
    if shift == 1 or alpha == 0 or sigma == 0:
        return level
    return path.level_at(math.log(alpha / sigma) - math.log(shift))


def _down_to(placed: list[float], last: float) -> list[float]:
    """The levels moved away from the first in proportion, so that the last one is `last`."""
    if not 0 < last < placed[0]:
        raise UsageError(f"terminal must be above 0 and below the first level, {placed[0]:g}; got {last}")
    if len(placed) == 1:
        return placed
    gain = (placed[0] - last) / (placed[0] - placed[-1])
    return [placed[0] - gain * (placed[0] - level) for level in placed]


def levels(
    name: str, path: NoisePath, count: int, settings: ScheduleSettings | None = None
) -> tuple[float, ...]:
    """`count` + 1 strictly falling levels of schedule `name` on `path`.

    Raises:
        UsageError: the schedule is unknown, `count` is below 1, or the schedule cannot place so many
            different levels on this path.
    """
    settings = settings or ScheduleSettings()
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES)
    if count < 1:
        raise UsageError(f"steps must be at least 1; got {count}")
    if settings.shift <= 0:
        raise UsageError(f"shift must be above 0; got {settings.shift}")
    if not isinstance(count, int) or count > _indices(path):
        raise UsageError(f"steps must be a whole number up to {_indices(path)}; got {count}")
    placed = [shifted(path, float(level), settings.shift) for level in SCHEDULES[name].place(path, count, settings)]
    if settings.terminal:
        placed = _down_to(placed, settings.terminal)
    if settings.top < 1:
        placed[0] = min(placed[0], settings.top * path.max_level)
    # "min" ends at the smallest trained level, which the last placed level may already be.
    end = path.min_level if settings.final == "min" and placed[-1] > path.min_level else 0.0
    walk = (*placed, end)
    if any(not later < earlier for earlier, later in pairwise(walk)):
        raise UsageError(f"schedule {name!r} cannot place {count} different steps on this path; use fewer steps")
    return walk
