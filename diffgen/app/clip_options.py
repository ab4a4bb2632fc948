"""The options of `diffgen video` beyond a prompt and a first frame: what else a clip is made of, and how it runs on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgen.app import values
from diffgen.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from diffgen.checkpoints import Model
    from diffgen.pipelines import Event
    from diffgen.recipe import Recipe

PANEL = "Clips from clips and pictures"
LONG = "Length and windows"


def _option(*names: str, help: str, panel: str = PANEL, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


@dataclass(frozen=True, kw_only=True)
class ClipOptions:
    """What a clip is made of besides its prompt. At most one of `over`, `extend`, `interpolate` is given."""

    to: Annotated[Path | None, _option("--to", metavar="IMAGE", help="The last frame.")] = None
    at: Annotated[
        list[str] | None, _option("--at", metavar="FRAME=IMAGE", help="A picture at a frame; repeatable.")
    ] = None
    over: Annotated[Path | None, _option("--over", metavar="CLIP", help="Draw over this clip.")] = None
    strength: Annotated[
        float | None, _option("--strength", help="0..1, how much is drawn anew with --over and --interpolate.")
    ] = None
    extend: Annotated[Path | None, _option("--extend", metavar="CLIP", help="Go on from this clip.")] = None
    anchored: Annotated[
        bool, _option("--anchor/--no-anchor", help="With --extend, hold noise and colours to the clip's own.")
    ] = True
    interpolate: Annotated[
        Path | None, _option("--interpolate", metavar="CLIP", help="Draw frames between those of this clip.")
    ] = None
    times: Annotated[int, _option("--times", help="With --interpolate, how many times the frame rate.")] = 2
    loop: Annotated[bool, _option("--loop", panel=LONG, help="The last frame goes on to the first.")] = False
    travel: Annotated[
        str | None,
        _option("--travel", panel=LONG, metavar="TIMES", help='Prompts at times: "0s: a seed; 2s: a tree".'),
    ] = None
    context: Annotated[int | None, _option("--context", panel=LONG, help="Frames that the model sees at once.")] = None
    overlap: Annotated[
        int | None, _option("--overlap", panel=LONG, help="Frames that two windows share; with --extend, to go by.")
    ] = None

    def task(self, first: Path | None = None) -> str:
        """The task that is asked for, by its name in `diffgen.pipelines.tasks`.

        Args:
            first: what was given as --from.

        Raises:
            UsageError: options do not go together, or a value is out of range.
        """
        clips = {"over": "video_to_video", "extend": "extend", "interpolate": "interpolate"}
        asked = [name for name in clips if getattr(self, name) is not None]
        pictures = [name for name, given in (("from", first), ("to", self.to), ("at", self.at)) if given]
        modes = [*asked, *(["loop"] if self.loop else []), *(["travel"] if self.travel else [])]
        if len(asked) > 1 or (asked and pictures) or (self.loop and (asked or pictures)):
            both = " and ".join(f"--{name}" for name in [*pictures, *modes][:2])
            raise UsageError(f"{both} do not go together; give one of them")
        self._check(asked)
        if asked:
            return clips[asked[0]]
        if pictures:
            return "image_to_video" if pictures == ["from"] else "keyframes"
        return "loop" if self.loop else "travel" if self.travel else "text_to_video"

    def _check(self, asked: list[str]) -> None:
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UsageError(f"strength must be above 0 and at most 1; got {self.strength}")
        if self.strength is not None and not set(asked) & {"over", "interpolate"}:
            raise UsageError("--strength goes with --over or --interpolate")
        values.check_least("times", self.times, 2)
        values.check_least("context", self.context, 2)
        values.check_least("overlap", self.overlap, 0)
        for name in ("to", "over", "extend", "interpolate"):
            path = getattr(self, name)
            if path is not None and not path.exists():
                raise UsageError(f"there is no file {path}, given as --{name}")
        for text in self.at or []:
            frame_and_path(text)

    def settings(self) -> dict[str, Any]:
        """The settings of a recipe that say so."""
        found = {
            "loop": self.loop or None, "travel": self.travel, "context": self.context,
            "context_overlap": None if self.extend is not None else self.overlap,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value is not None}


def frame_and_path(text: str) -> tuple[int, Path]:
    """(frame, path) of "12=cat.png"; -1 is the last frame.

    Raises:
        UsageError: it is not written so, or there is no such file.
    """
    frame, equals, path = text.partition("=")
    if not equals or not frame.strip().lstrip("-").isdecimal():
        raise UsageError(f"--at takes FRAME=IMAGE, such as 12=cat.png; got {text!r}")
    if not Path(path).expanduser().exists():
        raise UsageError(f"there is no file {path}, given as --at")
    return int(frame), Path(path).expanduser()


def clip_at(path: Path) -> tuple[np.ndarray, float]:
    """(float pixels [frames, height, width, 3] in 0..1, frames a second) of a clip file, .npz too.

    Raises:
        UsageError: it is missing, no clip, or damaged.
    """
    import numpy as np

    if path.suffix.lower() == ".npz":
        with np.load(path) as data:
            if "pixels" not in data or data["pixels"].ndim != 5:
                raise UsageError(f"{path} holds no clip; one is `pixels` [clips, frames, height, width, 3]")
            return data["pixels"][0].astype(np.float32), 0.0
    from diffgen.media import load_clip

    loaded = load_clip(path)
    return loaded.pixels.astype(np.float32) / 255, float(loaded.fps)


def begin(
    model: Model, prompt: str, first: Path | None, chosen: ClipOptions, options: Mapping[str, Any], batch: int,
    *, keep: bool = True,
) -> tuple[tuple[Recipe, ...], Iterator[Event]]:  # fmt: skip
    """(recipes, events) of the task that the options ask for.

    Args:
        first: the first frame's file.
        options: what `diffgen.pipelines.text_to_video.prepare` takes.
        keep: whether clips hold their frames at the end, where a task gives them as they come.
    """
    task, more = chosen.task(first), dict(options)
    more["settings"] = {**more.get("settings", {}), **chosen.settings()}
    if task in ("image_to_video", "keyframes"):
        return _from_pictures(model, prompt, first, chosen, more, batch, keep)
    if task == "loop":
        from diffgen.pipelines.loop import prepare as prepare_loop
        from diffgen.pipelines.loop import stream as stream_loop

        recipes = prepare_loop(model, prompt, **more)
        return recipes, stream_loop(model, recipes, batch=batch)
    if task in ("travel", "text_to_video"):
        from diffgen.pipelines.text_to_video import prepare, stream

        if task == "travel":
            from diffgen.pipelines.travel import prepare as prepare_travel

            recipes = prepare_travel(model, chosen.travel or "", prompt, **more)
        else:
            recipes = prepare(model, prompt, **more)
        return recipes, stream(model, recipes, batch=batch, keep=keep)
    return _from_clip(model, task, prompt, chosen, more, batch)


def _from_pictures(
    model: Model, prompt: str, first: Path | None, chosen: ClipOptions, options: dict[str, Any], batch: int,
    keep: bool,
) -> tuple[tuple[Recipe, ...], Iterator[Event]]:  # fmt: skip
    from diffgen.media import load_image
    from diffgen.pipelines.image_to_video import prepare, stream

    places = [*([(0, first)] if first else []), *([(-1, chosen.to)] if chosen.to else []),
              *(frame_and_path(text) for text in chosen.at or [])]  # fmt: skip
    pictures = {frame: load_image(path) for frame, path in places}
    recipes = prepare(model, pictures, prompt, **options)
    return recipes, stream(model, recipes, pictures, batch=batch, keep=keep)


def _from_clip(
    model: Model, task: str, prompt: str, chosen: ClipOptions, options: dict[str, Any], batch: int
) -> tuple[tuple[Recipe, ...], Iterator[Event]]:
    from importlib import import_module

    path = chosen.over or chosen.extend or chosen.interpolate
    assert path is not None, "the task is one of those with a clip"
    clip, fps = clip_at(path)
    options["fps"] = options.get("fps") or fps or None
    strength = {} if chosen.strength is None else {"strength": chosen.strength}
    if task == "extend":
        options |= {"overlap": chosen.overlap, "anchored": chosen.anchored}
    else:
        # As many frames as the clip has, or as stand between them.
        if options.pop("frames", None) is not None:
            raise UsageError(
                f"--frames does not go with --{'over' if chosen.over else 'interpolate'}: the clip says it"
            )
        options |= strength | ({"times": chosen.times} if task == "interpolate" else {})
    module = import_module(f"diffgen.pipelines.{task}")
    recipes = module.prepare(model, clip, prompt, **options)
    return recipes, module.stream(model, recipes, clip, batch=batch)
