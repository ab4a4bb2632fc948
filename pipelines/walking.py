"""From a whole recipe to what a plan needs: sampler, levels, noise, guidance, conditioning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import cast

import torch

from diffgen import noise, samplers, schedules
from diffgen.checkpoints.replaced import PARTS
from diffgen.contracts import Conditioning, Family, Guidance, Sampler
from diffgen.errors import UsageError, unknown
from diffgen.pipelines import adapting, film_settings, guiding, telling
from diffgen.pipelines.guiding import GUIDANCE_SETTINGS as GUIDANCE_SETTINGS
from diffgen.recipe import Recipe

TEXT_SETTINGS = ("clip_skip",)
TRUE_CFG = "true_cfg"
NOISE = "noise"
SCHEDULE_SETTINGS = tuple(f.name for f in fields(schedules.ScheduleSettings))


def noise_kind(recipe: Recipe) -> noise.NoiseKind:
    """Where the noise of a stochastic sampler comes from: the setting `noise`, else the sampler's own kind.

    Raises:
        UsageError: the setting is neither "fresh" nor "brownian".
    """
    info = samplers.SAMPLERS.get(recipe.sampler or "")
    kind = recipe.settings.get(NOISE) or (info.noise if info else None) or "fresh"
    if kind not in ("fresh", "brownian"):
        raise unknown("noise", str(kind), ["fresh", "brownian"])
    return cast(noise.NoiseKind, kind)


def walk(recipe: Recipe, family: Family) -> tuple[Sampler, tuple[float, ...], float, Guidance]:
    """(sampler, levels, scale of the starting noise, guidance) that a recipe asks for.

    Raises:
        UsageError: a name or setting is unknown or out of range.
    """
    told = telling.numbers(recipe, family)
    settings = {key: value for key, value in recipe.settings.items() if key not in told}
    name = recipe.sampler or family.defaults.sampler
    info = samplers.SAMPLERS.get(name)
    own = {key: settings.pop(key) for key in (info.settings if info else ()) if key in settings}
    sampler = samplers.make(name, **own)
    spacing = {key: settings.pop(key) for key in SCHEDULE_SETTINGS if key in settings}
    schedule = recipe.schedule or family.defaults.schedule
    placed = schedules.settings_from(schedule, spacing)
    steps = family.defaults.steps if recipe.steps is None else recipe.steps
    levels = schedules.levels(schedule, family.path, steps, placed)
    scale = family.defaults.guidance if recipe.guidance is None else recipe.guidance
    if TRUE_CFG in settings and "guidance_embedding" not in family.caps:
        raise UsageError(
            f"{family.name} takes no true_cfg (--true-cfg): its guidance, now {scale:g}, is classifier-free already; "
            "true_cfg is for models with the scale built in, such as flux-dev and hunyuan-video"
        )
    if "guidance_embedding" in family.caps:
        # The network takes the scale as an input; classifier-free guidance on top is asked for by name.
        scale = settings.pop(TRUE_CFG, 1.0)
    guidance = guiding.guidance_of(recipe, family, scale, settings)
    clips = film_settings.NAMES if recipe.frames is not None else ()
    strange = sorted(set(settings) - {*TEXT_SETTINGS, NOISE, adapting.ADAPTERS, PARTS, *clips})
    if strange:
        mine = info.settings if info else ()
        known = [*mine, *SCHEDULE_SETTINGS, *guiding.NAMES, *told, *TEXT_SETTINGS, *clips, NOISE]
        raise unknown(f"setting for sampler {name!r} and schedule {schedule!r}", strange[0], known)
    return sampler, levels, schedules.start_scale(family.path, levels[0], placed), guidance


def conditioning(
    recipe: Recipe, family: Family, guidance: Guidance, batch: int
) -> tuple[Conditioning, Conditioning | None, tuple[str, ...]]:
    """(positive, negative, notes) for `batch` pictures of one recipe; no negative where it has no effect.

    Both branches are encoded together, so that they come out with one length. A picture's text is encoded
    apart from every other picture's, so that its neighbours cannot change it.
    """
    (positive,), negative, notes = conditionings(recipe, family, guidance, batch)
    return positive, negative, notes


def conditionings(
    recipe: Recipe, family: Family, guidance: Guidance, batch: int, prompts: Sequence[str] = ()
) -> tuple[tuple[Conditioning, ...], Conditioning | None, tuple[str, ...]]:
    """As `conditioning`, with one positive for each of `prompts`; without any, for the recipe's own."""
    options = {key: recipe.settings[key] for key in TEXT_SETTINGS if key in recipe.settings}
    embedded = "guidance_embedding" in family.caps
    with adapting.reading(recipe, family) as (prompt, negative, told):
        wanted = [*prompts] or [prompt]
        span = guiding.negative_span(recipe.settings)
        texts = wanted if guidance.scale == 1 else [*wanted, negative] if span == (0, 1) else [*wanted, negative, ""]
        cond, notes = family.encode_text(texts, **options)
    notes = (*told, *notes)
    if len(texts) == len(wanted) and recipe.negative.strip():
        needs = f"it needs the setting {TRUE_CFG!r} above 1" if embedded else "it needs a guidance above 1"
        reason = needs if "negative_prompt" in family.caps else f"{family.name} takes none"
        notes = (f"the negative prompt was not used; {reason}", *notes)
    if embedded:
        scale = family.defaults.guidance if recipe.guidance is None else recipe.guidance
        cond = replace(cond, extra={**cond.extra, "guidance": torch.full((len(texts),), scale)})
    if recipe.fps is not None:
        cond = replace(cond, extra={**cond.extra, "fps": torch.full((len(texts),), recipe.fps)})
    cond = telling.told(cond, recipe, family, len(texts))
    rows = [cond.rows(slice(k, k + 1)).repeat(batch) for k in range(len(texts))]
    count = len(wanted)
    if len(rows) == count + 2:
        rows[count:] = [guiding.between(rows[count], rows[count + 1], span)]
    return tuple(rows[:count]), rows[count] if len(rows) > count else None, notes
