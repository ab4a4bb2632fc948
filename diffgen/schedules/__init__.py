"""Where on the path to step: n + 1 falling noise levels, the last one 0 or the smallest trained level.

A schedule is `(path, count, settings) -> levels`, without the last one. `levels` joins the parts: it places
the levels, shifts them and ends them. The names are ComfyUI's and A1111's; `linspace`, `leading` and
`trailing` are diffusers' timestep spacings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

from diffgen.errors import UsageError, unknown
from diffgen.path import NoisePath
from diffgen.schedules import placing
from diffgen.schedules.placing import Place, ScheduleSettings

_PART = ("discard_penultimate", "denoise_start", "denoise_end")


@dataclass(frozen=True, kw_only=True)
class ScheduleInfo:
    """A row of the table that `diffgen samplers` prints."""

    place: Place
    label: str
    good_for: str
    settings: tuple[str, ...] = field(default=("shift", "terminal", "final", *_PART))


_STRETCHED = ("span", "sigma_min", "sigma_max", "shift", "terminal", "final", *_PART)
SCHEDULES: dict[str, ScheduleInfo] = {
    "normal": ScheduleInfo(place=placing.normal, label="Normal", good_for="even in training time, both ends included"),
    "linspace": ScheduleInfo(place=placing.normal, label="Linspace", good_for="diffusers' linspace spacing of Euler"),
    "linspace_open": ScheduleInfo(
        place=placing.linspace_open, label="Linspace open", good_for="diffusers' linspace spacing of DPM++ and UniPC"),
    "leading": ScheduleInfo(
        place=placing.leading, label="Leading", settings=("offset", "shift", "terminal", "final", *_PART),
        good_for="published results of SD 1 and SDXL"),
    "trailing": ScheduleInfo(
        place=placing.trailing, label="Trailing", good_for="zero-terminal-SNR and few-step models"),
    "simple": ScheduleInfo(place=placing.simple, label="Simple", good_for="flow models"),
    "sgm_uniform": ScheduleInfo(place=placing.sgm_uniform, label="SGM Uniform", good_for="few-step models"),
    "even": ScheduleInfo(place=placing.even, label="Even", good_for="flow models: even in the level itself"),
    "ddim_uniform": ScheduleInfo(place=placing.ddim_uniform, label="DDIM", good_for="ComfyUI's older results"),
    "cosine": ScheduleInfo(
        place=placing.after_noise(placing.cosine), label="Cosine", settings=_STRETCHED, good_for="care at both ends"),
    "linear_quadratic": ScheduleInfo(
        place=placing.linear_quadratic, label="Linear Quadratic", good_for="flow models of clips (2410.13720)"),
    "polyexponential": ScheduleInfo(
        place=placing.after_noise(placing.polyexponential), label="Polyexponential", settings=("rho", *_STRETCHED),
        good_for="between exponential and karras"),
    "kl_optimal": ScheduleInfo(
        place=placing.after_noise(placing.kl_optimal), label="KL Optimal", settings=_STRETCHED,
        good_for="few steps (2404.14507)"),
    "ays": ScheduleInfo(
        place=placing.aligned("ays"), label="Align Your Steps", good_for="SD 1 at 10 steps (2404.14507)"),
    "ays_sdxl": ScheduleInfo(
        place=placing.aligned("ays_sdxl"), label="Align Your Steps XL", good_for="SDXL at 10 steps (2404.14507)"),
    "ays_svd": ScheduleInfo(
        place=placing.aligned("ays_svd"), label="Align Your Steps SVD", good_for="SVD at 10 steps (2404.14507)"),
    "custom": ScheduleInfo(
        place=placing.custom, label="Custom", settings=("levels", "shift", "terminal", "final", *_PART),
        good_for="levels of your own"),
    "optimal": ScheduleInfo(
        place=placing.optimal, label="Optimal", settings=("levels", "shift", "terminal", "final", *_PART),
        good_for="the model it was fitted to"),
    "bong_tangent": ScheduleInfo(
        place=placing.bong_tangent, label="Bong Tangent", good_for="flow models: symmetric, with care at both ends"),
    "trig": ScheduleInfo(
        place=placing.trig, label="Trig",
        good_for="consistency models: even in the angle atan(sigma / alpha) (2410.11081)"),
    "karras": ScheduleInfo(
        place=placing.after_noise(placing.karras), label="Karras", settings=("rho", *_STRETCHED),
        good_for="fine detail (2206.00364)"),
    "exponential": ScheduleInfo(
        place=placing.after_noise(placing.exponential), label="Exponential", settings=_STRETCHED,
        good_for="even in ln sigma"),
    "beta": ScheduleInfo(
        place=placing.beta, label="Beta", settings=("alpha", "beta", *_STRETCHED),
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
    given: dict[str, Any] = {key: tuple(value) if key == "levels" else value for key, value in values.items()}
    return replace(ScheduleSettings(), **given)


def start_scale(path: NoisePath, level: float, settings: ScheduleSettings) -> float:
    """What unit noise is multiplied with to begin a walk at `level`."""
    sigma = path.coefficients(level)[1]
    # An exploding path has no unit-variance form: its noise is sigma by definition.
    # What begins on the way has the noise of its level, over what it is told to go on from.
    return sigma if settings.start == "sigma" or sigma > 1 or settings.denoise_start > 0 else 1.0


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
    if not isinstance(count, int) or count > placing.indices_of(path):
        raise UsageError(f"steps must be a whole number up to {placing.indices_of(path)}; got {count}")
    wanted = count + 1 if settings.discard_penultimate else count
    placed = [shifted(path, float(level), settings.shift) for level in SCHEDULES[name].place(path, wanted, settings)]
    placed = placed[:count]
    if settings.terminal:
        placed = _down_to(placed, settings.terminal)
    if settings.top < 1:
        placed[0] = min(placed[0], settings.top * path.max_level)
    # "min" ends at the smallest trained level, which the last placed level may already be.
    end = path.min_level if settings.final == "min" and placed[-1] > path.min_level else 0.0
    walk = (*placed, end)
    if any(not later < earlier for earlier, later in pairwise(walk)):
        raise UsageError(f"schedule {name!r} cannot place {count} different steps on this path; use fewer steps")
    return _part(path, walk, settings)


def _part(path: NoisePath, walk: tuple[float, ...], settings: ScheduleSettings) -> tuple[float, ...]:
    """The steps of `walk` that begin between `denoise_start` and `denoise_end`."""
    start, end = settings.denoise_start, settings.denoise_end
    if not 0 <= start < end <= 1:
        raise UsageError(f"denoise_start and denoise_end must rise within 0 to 1; got {start} and {end}")
    first, last = path.time(path.max_level), path.time(path.min_level)
    passed = [(first - path.time(level)) / (first - last) for level in walk[:-1]]
    after = [start == 0 or share >= start - 1e-9 for share in passed]
    taken = [k for k, share in enumerate(passed) if after[k] and (end == 1 or share < end - 1e-9)]
    if not taken:
        raise UsageError(
            f"no step of this walk begins between denoise_start {start} and denoise_end {end}; use more steps"
        )
    return walk[taken[0] : taken[-1] + 2]
