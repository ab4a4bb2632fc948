"""From what was asked to whole recipes: every default is filled in here, and nowhere else."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, cast

import torch
from diffgen.pipelines.extent import check_frames, check_size

from diffgen import noise, samplers, schedules
from diffgen.checkpoints import Model
from diffgen.contracts import Conditioning, Family, Guidance, Sampler
from diffgen.errors import UnsupportedError, UsageError, unknown
from diffgen.guidance import CFG, PUSHES
from diffgen.recipe import Recipe, installed_versions
from diffgen.spelling import canonical

GUIDANCE_SETTINGS = {
    "guidance_method": "method", "guidance_rescale": "rescale", "guidance_percentile": "percentile",
    "guidance_start": "start", "guidance_stop": "stop", "guidance_converged": "converged",
    "image_guidance": "image_scale",
}  # fmt: skip
TEXT_SETTINGS = ("clip_skip",)
TRUE_CFG = "true_cfg"
NOISE = "noise"
SCHEDULE_SETTINGS = tuple(f.name for f in fields(schedules.ScheduleSettings))
SEED_LIMIT = 2**63


def new_seed() -> int:
    """A seed nobody has asked for: below 2^32, so that every tool can type it."""
    return secrets.randbelow(2**32)


def resolve(
    model: Model, task: str, *, prompt: str, negative: str = "", seed: int | None = None, count: int = 1,
    size: tuple[int, int] | None = None, steps: int | None = None, guidance: float | None = None,
    sampler: str | None = None, schedule: str | None = None, settings: Mapping[str, Any] | None = None,
    frames: int | None = None, fps: float | None = None, wordless: bool = False,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a picture. Picture k has seed + k.

    A task that makes clips passes `frames`, and `fps` or None for the family's own. `wordless` tasks have a
    picture to go by, and may have an empty prompt.

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
    sampler, schedule, fixed = canonical(sampler, schedule)
    if not prompt.strip() and not wordless:
        raise UsageError("the prompt is empty; say what to draw")
    if count < 1:
        raise UsageError(f"count must be at least 1; got {count}")
    first = new_seed() if seed is None else seed
    if not 0 <= first < SEED_LIMIT - count:
        raise UsageError(f"seed must be 0 to {SEED_LIMIT - count - 1}; got {first}")
    width, height = size or family.spec.size
    check_size(family, width, height)
    if frames is not None:
        check_frames(family, frames)
        fps = fps or family.spec.fps
    defaults = family.defaults
    steps = defaults.steps if steps is None else steps
    inherited = _inherited(family, schedule, sampler, (width, height, frames or 1, steps))
    common = Recipe(
        task=task, prompt=prompt, negative=negative, width=width, height=height, frames=frames, fps=fps,
        steps=steps, guidance=defaults.guidance if guidance is None else guidance, sampler=sampler or defaults.sampler,
        schedule=schedule or defaults.schedule, settings={**inherited, **fixed, **(settings or {})},
        model=model.name, model_hash=model.hash, dtype=str(family.dtype).removeprefix("torch."),
        device=family.device.type, versions=installed_versions(),
    )  # fmt: skip
    walk(common, family)
    return tuple(replace(common, seed=first + k) for k in range(count))


def _inherited(
    family: Family, schedule: str | None, sampler: str | None, extent: tuple[int, int, int, int]
) -> dict[str, Any]:
    """The checkpoint's own settings, as far as they belong to the sampler and schedule in use.

    `extent` is (width, height, frames, steps).
    """
    defaults = family.defaults
    kept = dict(defaults.settings)
    if schedule not in (None, defaults.schedule):
        kept = {key: value for key, value in kept.items() if key not in SCHEDULE_SETTINGS}
    if sampler not in (None, defaults.sampler):
        kept = {key: value for key, value in kept.items() if key in (*SCHEDULE_SETTINGS, *GUIDANCE_SETTINGS)}
    if defaults.sized is not None:
        kept |= defaults.sized(*extent)
    return kept


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
    settings = dict(recipe.settings)
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
    if "guidance_embedding" in family.caps:
        # The network takes the scale as an input; classifier-free guidance on top is asked for by name.
        scale = settings.pop(TRUE_CFG, 1.0)
    guide = family.defaults.guide or CFG
    tuned = {key: field for key, field in GUIDANCE_SETTINGS.items() if _takes(guide, field)}
    chosen = {tuned[key]: settings.pop(key) for key in tuned if key in settings}
    if push := PUSHES.get(str(chosen.get("method"))):
        own = {name: f"guidance_{name}" for name in push.settings}
        chosen["tuning"] = {name: settings.pop(key) for name, key in own.items() if key in settings}
    guidance = guide(scale=scale, **chosen)
    strange = sorted(set(settings) - {*TEXT_SETTINGS, NOISE})
    if strange:
        known = [*(info.settings if info else ()), *SCHEDULE_SETTINGS, *GUIDANCE_SETTINGS, *TEXT_SETTINGS, NOISE]
        raise unknown(f"setting for sampler {name!r} and schedule {schedule!r}", strange[0], known)
    return sampler, levels, schedules.start_scale(family.path, levels[0], placed), guidance


def _takes(guide: Callable[..., Guidance], name: str) -> bool:
    """Whether a guidance has a setting of that name; one that passes its settings on is made around CFG."""
    parameters = inspect.signature(guide).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return name in parameters or (passes_on and name in inspect.signature(CFG).parameters)


def conditioning(
    recipe: Recipe, family: Family, guidance: Guidance, batch: int
) -> tuple[Conditioning, Conditioning | None, tuple[str, ...]]:
    """(positive, negative, notes) for `batch` pictures of one recipe; no negative where it has no effect.

    Both branches are encoded together, so that they come out with one length. A picture's text is encoded
    apart from every other picture's, so that its neighbours cannot change it.
    """
    options = {key: recipe.settings[key] for key in TEXT_SETTINGS if key in recipe.settings}
    embedded = "guidance_embedding" in family.caps
    texts = [recipe.prompt] if guidance.scale == 1 else [recipe.prompt, recipe.negative]
    cond, notes = family.encode_text(texts, **options)
    if len(texts) == 1 and recipe.negative.strip():
        needs = f"it needs the setting {TRUE_CFG!r} above 1" if embedded else "it needs a guidance above 1"
        reason = needs if "negative_prompt" in family.caps else f"{family.name} takes none"
        notes = (f"the negative prompt was not used; {reason}", *notes)
    if embedded:
        scale = family.defaults.guidance if recipe.guidance is None else recipe.guidance
        cond = replace(cond, extra={**cond.extra, "guidance": torch.full((len(texts),), scale)})
    if recipe.fps is not None:
        cond = replace(cond, extra={**cond.extra, "fps": torch.full((len(texts),), recipe.fps)})
    rows = [cond.rows(slice(k, k + 1)).repeat(batch) for k in range(len(texts))]
    return rows[0], rows[1] if len(rows) > 1 else None, notes
