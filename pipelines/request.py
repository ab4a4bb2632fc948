"""From what was asked to whole recipes: every default is filled in here, and nowhere else."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints import Model
from diffgen.checkpoints.replaced import PARTS
from diffgen.contracts import Family
from diffgen.errors import UnsupportedError, UsageError
from diffgen.kernels import resolve as kernel_choice
from diffgen.pipelines import adapting, film_settings, fitted, guide_files, tasks
from diffgen.pipelines.extent import check_frames, check_size, next_extent
from diffgen.pipelines.tasks import CLIP_TASKS
from diffgen.pipelines.walking import GUIDANCE_SETTINGS, SCHEDULE_SETTINGS, walk
from diffgen.recipe import Recipe, installed_versions
from diffgen.spelling import canonical

SEED_LIMIT = 2**63


def new_seed() -> int:
    """A seed nobody has asked for: below 2^32, so that every tool can type it."""
    return secrets.randbelow(2**32)


def resolve(
    model: Model, task: str, *, prompt: str, negative: str = "", seed: int | None = None, count: int = 1,
    size: tuple[int, int] | None = None, steps: int | None = None, guidance: float | None = None,
    sampler: str | None = None, schedule: str | None = None, settings: Mapping[str, Any] | None = None,
    frames: int | None = None, fps: float | None = None, wordless: bool = False, kernels: str | None = None,
    adapters: Sequence[Any] = (), adapter_folders: Sequence[Path | str] = (), allow_pickle: bool = False,
) -> tuple[Recipe, ...]:  # fmt: skip
    """One whole recipe a picture. Picture k has seed + k.

    A task that makes clips passes `frames`, and `fps` or None for the family's own. `wordless` tasks have a
    picture to go by, and may have an empty prompt.

    `adapters`, `adapter_folders` and `allow_pickle` are as for `diffgen.pipelines.adapting.settings`.

    `kernels` is "auto", "off" or a choice's text: see `diffgen.kernels.resolve`.

    A schedule of the user's own leaves the checkpoint's schedule settings behind, since they belong together.

    Raises:
        UsageError: a value is unknown or out of range.
        UnsupportedError: the family cannot do this task.
    """
    family = model.family
    if task in CLIP_TASKS:
        tasks.check(family.name, family.caps, family.spec, task)
    elif task not in family.caps:
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
    if frames is None:
        check_size(family, width, height)
    else:
        (film_settings.check_loop if (settings or {}).get("loop") else check_frames)(family, frames)
        fps = fps or family.spec.fps
        settings = film_settings.filled(family, frames, settings or {})
    defaults = family.defaults
    steps = defaults.steps if steps is None else steps
    extent = (width, height, 1)
    if frames is not None:
        extent = next_extent(family, width, height, frames, loop=bool((settings or {}).get("loop")))
    inherited = _inherited(family, schedule, sampler, (*extent, steps))
    if (schedule or defaults.schedule) == "optimal":
        inherited |= fitted.saved(model)
    if guidance is not None:
        # It belongs to the checkpoint's own scale, and beside another would be out of proportion.
        inherited.pop("guidance_2", None)
    adapted = adapting.settings(prompt, negative, adapters, adapter_folders, allow_pickle=allow_pickle)
    parts = {PARTS: model.parts} if model.parts else {}
    common = Recipe(
        task=task, prompt=prompt, negative=negative, width=width, height=height, frames=frames, fps=fps,
        steps=steps, guidance=defaults.guidance if guidance is None else guidance, sampler=sampler or defaults.sampler,
        schedule=schedule or defaults.schedule,
        settings={**inherited, **fixed, **adapted, **parts, **guide_files.recorded(settings or {})},
        model=model.name, model_hash=model.hash, dtype=str(family.dtype).removeprefix("torch."),
        device=family.device.type, versions=installed_versions(),
        # On the CPU sums are split among the threads, so their number decides the last bits.
        threads=torch.get_num_threads() if family.device.type == "cpu" else None,
        kernels=kernel_choice(kernels, family),
    )  # fmt: skip
    walk(common, family)
    adapting.applied(common, family)
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
