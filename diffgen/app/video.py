"""`diffgen video`: a prompt, and a picture if one is given, become a clip in a .npz file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgen.app import adapters, clip_options, values
from diffgen.app import image as pictures
from diffgen.app.clip_options import ClipOptions
from diffgen.app.display import new_display
from diffgen.app.drawing import Report
from diffgen.app.errors import Interrupted
from diffgen.app.groups import takes
from diffgen.app.image import FILES, LOOK, _option
from diffgen.app.loading import Loading, takes_loading
from diffgen.errors import UsageError
from diffgen.media.files import check_writable, next_free_path, readable_name

if TYPE_CHECKING:
    from diffgen.pipelines import Event

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What is to happen; may be empty with --from.")]
Frames = Annotated[int | None, _option("--frames", panel=LOOK, help="Frames of the clip.")]
Fps = Annotated[float | None, _option("--fps", panel=LOOK, help="Frames a second.")]
First = Annotated[Path | None, _option("--from", panel=LOOK, metavar="IMAGE", help="The first frame.")]
Motion = Annotated[
    str | None,
    _option("--motion", panel=LOOK, metavar="DIR", help="A MotionAdapter for a picture model; the box has its own."),
]
Output = Annotated[str | None, _option("--output", "-o", panel=FILES, metavar="PATH", help="A .npz file.")]


@takes_loading
@takes("chosen", ClipOptions)
def video(
    prompt: Prompt, negative: pictures.Negative = "", from_: First = None, frames: Frames = None, fps: Fps = None,
    size: pictures.Size = None, seed: pictures.Seed = None, count: pictures.Count = 1, steps: pictures.Steps = None,
    guidance: pictures.Guidance = None, true_cfg: pictures.TrueCfg = None, sampler: pictures.SamplerName = None,
    schedule: pictures.ScheduleName = None, set_: pictures.Settings = None,
    lora: adapters.Lora = None, lora_dir: adapters.LoraDir = None, embedding: adapters.Embedding = None,
    output: Output = None,
    force: pictures.Force = False, model: pictures.ModelName = "box", motion: Motion = None, batch: pictures.Batch = 1,
    dtype: pictures.Dtype = "auto", device: pictures.Device = "auto", strict: pictures.Strict = False,
    json: pictures.Json = False, *, chosen: ClipOptions, loading: Loading,
) -> None:  # fmt: skip
    """Draw clips from a prompt, with a clip model.

    The file holds float32 `pixels` [clips, frames, height, width, 3] in 0..1,
    and `latents`, with the recipe of the first clip.

    Examples:
      diffgen video "a cat runs" --model path/to/wan --frames 33 -o cat.npz
      diffgen video "it waves" --from hand.png --model path/to/ltx -o wave.npz
      diffgen video "3d emoji of a cat" --loop -o cat.npz
      diffgen video "a tree" --travel "0s: in spring; 2s: in winter" --frames 32
      diffgen video "it waves on" --extend wave.mp4 -o longer.npz
    """
    options = pictures._options(size, steps, guidance, sampler, schedule, set_ or [], None, true_cfg)
    options |= adapters.options(lora, lora_dir, embedding, allow_pickle=loading.allow_pickle)
    options |= {"frames": frames, "fps": fps, "negative": negative, "seed": seed, "count": count}
    for name, number in (("count", count), ("batch", batch), ("frames", frames)):
        values.check_least(name, number, 1)
    if fps is not None and not fps > 0:
        raise UsageError(f"fps must be above 0; got {fps}")
    chosen.task(from_)
    pictures.check_machine(model, dtype, loading)
    parts = loading.options() | _motion(model, motion)
    path = _target(output, prompt, force)
    if from_ is not None:
        _first_frame(from_)
    report = Report(as_json=json)
    with new_display(count, False) as screen:
        from diffgen.app.startup import load_model

        loaded = load_model(model, dtype=dtype, device=device, strict=strict, **parts)
        report.remark(loaded.notes)
        recipes, events = clip_options.begin(loaded, prompt, from_, chosen, options, batch)
        adapters.tell(loaded, recipes, as_json=json)
        screen.begin(loaded.family, recipes)
        _draw(events, path, report, screen, force)
    report.close(strict)


def _motion(model: str, motion: str | None) -> dict[str, str]:
    """The motion module asked for, else that of the model in the box, as an argument for `diffgen.load`."""
    from diffgen.checkpoints.box import BOX
    from diffgen.checkpoints.motion import motion_path

    motion = BOX if motion is None and model == BOX else motion
    if motion is None:
        return {}
    motion_path(motion)
    return {"motion": motion}


def _target(output: str | None, prompt: str, force: bool) -> Path:
    if output is None:
        from datetime import date

        return next_free_path(Path("diffgen-out") / date.today().isoformat(), readable_name(prompt or "clip"), ".npz")
    path = Path(output).expanduser()
    if path.suffix.lower() != ".npz":
        raise UsageError(f"clips are written as .npz for now; got {path.name!r}, accepted: {path.stem}.npz")
    check_writable(path, overwrite=force)
    return path


def _first_frame(path: Path) -> Any:
    from diffgen.media import load_image

    return load_image(path)


def _draw(events: Iterator[Event], path: Path, report: Report, screen: Any, force: bool) -> None:
    import numpy as np

    from diffgen.media import save_npz
    from diffgen.pipelines import Clip, Progress

    made: list[Clip] = []
    try:
        for event in events:
            if isinstance(event, Progress):
                screen.step(event)
            elif isinstance(event, Clip):
                report.remark(event.recipe.notes)
                made.append(event)
    except KeyboardInterrupt:
        raise Interrupted("stopped; kept: nothing") from None
    pixels, latents = (np.stack([getattr(clip, name) for clip in made]) for name in ("pixels", "latents"))
    saved = save_npz(path, pixels, latents, made[0].recipe, overwrite=force)
    report.file(saved, "clips", count=len(made))
