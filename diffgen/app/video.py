"""`diffgen video`: prompts, pictures and clips in, clips out. What can be checked is checked before torch loads."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgen.app import adapters, clip_options, outputs, values
from diffgen.app import image as pictures
from diffgen.app.clip_files import ClipFiles
from diffgen.app.clip_options import ClipOptions
from diffgen.app.display import new_display
from diffgen.app.drawing import Report
from diffgen.app.filming import film
from diffgen.app.groups import takes
from diffgen.app.image import FILES, LOOK, Draft, _option
from diffgen.app.loading import Loading, takes_loading
from diffgen.media.files import readable_name
from diffgen.media.rates import exact_rate, exact_seconds

if TYPE_CHECKING:
    from diffgen.checkpoints import Model
    from diffgen.pipelines import Event
    from diffgen.recipe import Recipe

# Tasks whose frames are final as they are decoded, and those that need no words.
STREAMED = ("text_to_video", "travel", "image_to_video", "keyframes")
WORDED = ("text_to_video", "loop", "travel")

Prompts = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="What is to happen; not needed with --from.")
]
Seconds = Annotated[str | None, _option("--seconds", panel=LOOK, help="Length of the clip.")]
Frames = Annotated[int | None, _option("--frames", panel=LOOK, help="Length of the clip, in frames.")]
Fps = Annotated[str | None, _option("--fps", panel=LOOK, help="Frames a second, such as 24, 23.976 or 24000/1001.")]
First = Annotated[Path | None, _option("--from", panel=LOOK, metavar="IMAGE", help="The first frame.")]
Motion = Annotated[
    str | None,
    _option("--motion", panel=LOOK, metavar="DIR", help="A MotionAdapter for a picture model; the box has its own."),
]
Output = Annotated[
    str | None,
    _option("--output", "-o", panel=FILES, metavar="PATH", help="x.mp4, .webm, .gif, .webp, .apng, .npz; or a folder."),
]
Count = Annotated[int, _option("--count", "-n", panel=LOOK, help="Clips a prompt.")]


@takes_loading
@takes("chosen", ClipOptions)
@takes("files", ClipFiles)
def video(
    prompts: Prompts = None, negative: pictures.Negative = "", from_: First = None, seconds: Seconds = None,
    frames: Frames = None, fps: Fps = None, size: pictures.Size = None, seed: pictures.Seed = None, count: Count = 1,
    wildcards: pictures.Wildcards = None, steps: pictures.Steps = None,
    guidance: pictures.Guidance = None, true_cfg: pictures.TrueCfg = None, sampler: pictures.SamplerName = None,
    schedule: pictures.ScheduleName = None, set_: pictures.Settings = None, clip_skip: pictures.ClipSkip = None,
    lora: adapters.Lora = None, lora_dir: adapters.LoraDir = None, embedding: adapters.Embedding = None,
    output: Output = None,
    force: pictures.Force = False, model: pictures.ModelName = "box", motion: Motion = None, batch: pictures.Batch = 1,
    dtype: pictures.Dtype = "auto", device: pictures.Device = "auto", strict: pictures.Strict = False,
    json: pictures.Json = False, preview: pictures.Preview = None, *, files: ClipFiles, chosen: ClipOptions,
    loading: Loading,
) -> None:  # fmt: skip
    """Draw clips from prompts, pictures or other clips.

    Size, length and rate are exactly as asked: what the model cannot draw
    exactly is drawn larger and cut, and a note says so. Without -o, clips go
    to a dated folder under diffgen-out as MP4. Every clip holds its recipe;
    x.npz holds float32 `pixels` (clips, frames, height, width, 3), and
    `latents`.

    Examples:
      diffgen video "3d emoji of a waving hand" -o hand.mp4
      diffgen video "a cat runs" --model wan/ --seconds 2 --fps 23.976
      diffgen video "it waves" --from hand.png --model ltx/ -o wave.webm
      diffgen video "3d emoji of a cat" --loop --format gif -o clips/
      diffgen video "a tree" --travel "0s: in spring; 2s: in winter" --frames 32
      diffgen video "it waves on" --extend wave.mp4 -o longer.mp4
    """
    options = pictures._options(size, steps, guidance, sampler, schedule, set_ or [], clip_skip, true_cfg)
    options |= adapters.options(lora, lora_dir, embedding, allow_pickle=loading.allow_pickle)
    for name, number in (("count", count), ("batch", batch), ("frames", frames)):
        values.check_least(name, number, 1)
    rate = None if fps is None else exact_rate(fps)
    if seconds is not None:
        exact_seconds(seconds)
    task = chosen.task(from_)
    pictures.check_machine(model, dtype, loading)
    parts = loading.options() | _motion(model, motion)
    drafts = plan(prompts or [], negative, seed, count, wildcards or [], worded=task in WORDED)
    names = [readable_name(draft.prompt or "clip", draft.seed) for draft in drafts]
    target = outputs.plan_clips(output, names, format=files.format, force=force)
    how = files.filming(target, chosen.over or chosen.extend, streamed=task in STREAMED)
    _check_picture(from_)
    report = Report(as_json=json)
    with target.ready(), new_display(len(drafts), preview) as screen:
        from diffgen.app.startup import load_model
        from diffgen.pipelines.outlook import check

        check(model, task, motion="motion" in parts)
        loaded = load_model(model, dtype=dtype, device=device, strict=strict, **parts)
        report.remark(loaded.notes)
        options |= _length(loaded, report, frames, seconds, rate)
        keep = target.arrays or task not in STREAMED
        recipes, events = begin(loaded, drafts, from_, chosen, options, batch=batch, keep=keep)
        adapters.tell(loaded, recipes, as_json=json)
        screen.begin(loaded.family, recipes)
        film(events, recipes, target, how, report, screen)
    report.close(strict)


def plan(
    prompts: Sequence[str], negative: str, seed: int | None, count: int, folders: Sequence[Path], *, worded: bool
) -> tuple[Draft, ...]:
    """One draft a clip, as `diffgen.app.image.plan`; without words where the task needs none.

    Raises:
        UsageError: as there, or no prompt is given where one is needed.
    """
    if any(prompt.strip() for prompt in prompts) or worded:
        return pictures.plan(prompts or [""], negative, seed, count, folders)
    first = secrets.randbelow(2**32) if seed is None else seed
    return tuple(Draft(prompt="", negative=negative, seed=first + k, extra={}) for k in range(count))


def begin(
    model: Model, drafts: Sequence[Draft], first: Path | None, chosen: ClipOptions, options: dict[str, Any],
    *, batch: int, keep: bool,
) -> tuple[list[Recipe], Iterator[Event]]:  # fmt: skip
    """(the whole recipe of each draft, the events of drawing them all)."""
    started = []
    for _, run in groupby(enumerate(drafts), key=lambda one: (one[1].prompt, one[1].negative, one[1].seed - one[0])):
        group = [draft for _, draft in run]
        more = {**options, "negative": group[0].negative, "seed": group[0].seed, "count": len(group)}
        recipes, events = clip_options.begin(model, group[0].prompt, first, chosen, more, batch, keep=keep)
        started.append((group, recipes, events))
    every = [recipe for _, recipes, _ in started for recipe in recipes]
    return every, _joined(started, len(every))


def _joined(
    started: Sequence[tuple[Sequence[Draft], Sequence[Recipe], Iterator[Event]]], total: int
) -> Iterator[Event]:
    """The events of several runs as if they were one, with what was typed in the recipes."""
    from diffgen.pipelines import Clip, Progress
    from diffgen.pipelines.drawing import Frames

    before = 0
    for group, recipes, events in started:
        for event in events:
            if isinstance(event, Progress):
                event = replace(event, first=event.first + before, total=total)
            elif isinstance(event, Clip):
                extra = {**event.recipe.extra, **group[event.index].extra}
                event = replace(event, index=event.index + before, recipe=replace(event.recipe, extra=extra))
            elif isinstance(event, Frames):
                event = replace(event, index=event.index + before)
            yield event
        before += len(recipes)


def _length(
    model: Model, report: Report, frames: int | None, seconds: str | None, fps: Fraction | None
) -> dict[str, Any]:
    """Frames and frames a second, where something is asked of them."""
    if seconds is None:
        return {"frames": frames, "fps": None if fps is None else float(fps)}
    from diffgen.pipelines.extent import length_of

    count, rate, notes = length_of(model.family, frames=frames, seconds=seconds, fps=None if fps is None else str(fps))
    report.remark(notes)
    return {"frames": count, "fps": rate}


def _check_picture(path: Path | None) -> None:
    """Refuses a first frame that is no picture now, and not after the model is loaded."""
    from diffgen.media import load_image

    if path is not None:
        load_image(path)


def _motion(model: str, motion: str | None) -> dict[str, str]:
    """The motion module asked for, else that of the model in the box, as an argument for `diffgen.load`."""
    from diffgen.checkpoints.box import BOX
    from diffgen.checkpoints.motion import motion_path

    motion = BOX if motion is None and model == BOX else motion
    if motion is None:
        return {}
    motion_path(motion)
    return {"motion": motion}
