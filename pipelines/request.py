"""From what was asked to whole recipes: every default is filled in here, and nowhere else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from diffgen import samplers, schedules
from diffgen.checkpoints import Model
from diffgen.contracts import Family, Sampler
from diffgen.errors import UnsupportedError, UsageError, unknown
from diffgen.guidance import CFG
from diffgen.recipe import Recipe, installed_versions

GUIDANCE_SETTINGS = {"guidance_rescale": "rescale", "guidance_start": "start", "guidance_stop": "stop"}
TEXT_SETTINGS = ("clip_skip",)
SCHEDULE_SETTINGS = tuple(f.name for f in fields(schedules.ScheduleSettings))
SEED_LIMIT = 2**63


def check_size(family: Family, width: int, height: int) -> None:
    """Refuses a size the family cannot draw, and names the nearest it can.

    Raises:
        UsageError: a side is not a positive multiple of `family.spec.multiple`.
    """
    unit = family.spec.multiple
    if width % unit == 0 and height % unit == 0 and min(width, height) >= unit:
        return
    near = "x".join(str(max(unit, round(side / unit) * unit)) for side in (width, height))
    raise UsageError(f"size {width}x{height} cannot be drawn; both sides must be multiples of {unit}, such as {near}")


def new_seed() -> int:
    """A seed nobody has asked for: below 2^32, so that every tool can type it."""
    return secrets.randbelow(2**32)


def resolve(
    model: Model, task: str, *, prompt: str, negative: str = "", seed: int | None = None, count: int = 1,
    size: tuple[int, int] | None = None, steps: int | None = None, guidance: float | None = None,
    sampler: str | None = None, schedule: str | None = None, settings: Mapping[str, Any] | None = None,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a picture. Picture k has seed + k.

    A schedule of the user's own leaves the checkpoint's schedule settings behind, since they belong together.

    Raises:
        UsageError: a value is unknown or out of range.
        UnsupportedError: the family cannot do this task.
    """
    family = model.family
    if task not in family.caps:
        raise UnsupportedError(
            f"{family.name} cannot do {task}; this checkpoint can do {', '.join(sorted(family.caps))}"
        )
    if not prompt.strip():
        raise UsageError("the prompt is empty; say what to draw")
    if count < 1:
        raise UsageError(f"count must be at least 1; got {count}")
    first = new_seed() if seed is None else seed
    if not 0 <= first < SEED_LIMIT - count:
        raise UsageError(f"seed must be 0 to {SEED_LIMIT - count - 1}; got {first}")
    width, height = size or family.spec.size
    check_size(family, width, height)
    defaults = family.defaults
    inherited = dict(defaults.settings) if schedule in (None, defaults.schedule) else {}
    common = Recipe(
        task=task, prompt=prompt, negative=negative, width=width, height=height, steps=steps or defaults.steps,
        guidance=defaults.guidance if guidance is None else guidance, sampler=sampler or defaults.sampler,
        schedule=schedule or defaults.schedule, settings={**inherited, **(settings or {})},
        model=model.name, model_hash=model.hash, dtype=str(family.dtype).removeprefix("torch."),
        device=family.device.type, versions=installed_versions(),
    )  # fmt: skip
    walk(common, family)
    return tuple(_with(common, seed=first + k) for k in range(count))


def _with(recipe: Recipe, **changes: Any) -> Recipe:
    from dataclasses import replace

    return replace(recipe, **changes)


def walk(recipe: Recipe, family: Family) -> tuple[Sampler, tuple[float, ...], float, CFG]:
    """(sampler, levels, scale of the starting noise, guidance) that a recipe asks for.

    Raises:
        UsageError: a name or setting is unknown or out of range.
    """
    settings = dict(recipe.settings)
    name = recipe.sampler or family.defaults.sampler
    info = samplers.SAMPLERS.get(name)
    own = {key: settings.pop(key) for key in (info.settings if info else ()) if key in settings}
    sampler = samplers.make(name, **own)
    spacing = {key: settings.pop(key) for key in SCHEDULE_SETTINGS if key in settings}
    schedule = recipe.schedule or family.defaults.schedule
    placed = schedules.settings_from(schedule, spacing)
    levels = schedules.levels(schedule, family.path, recipe.steps or family.defaults.steps, placed)
    scale = family.defaults.guidance if recipe.guidance is None else recipe.guidance
    guidance = CFG(
        scale=scale, **{GUIDANCE_SETTINGS[key]: settings.pop(key) for key in GUIDANCE_SETTINGS if key in settings}
    )
    strange = sorted(set(settings) - set(TEXT_SETTINGS))
    if strange:
        known = [*(info.settings if info else ()), *SCHEDULE_SETTINGS, *GUIDANCE_SETTINGS, *TEXT_SETTINGS]
        raise unknown(f"setting for sampler {name!r} and schedule {schedule!r}", strange[0], known)
    return sampler, levels, schedules.start_scale(family.path, levels[0], placed), guidance
