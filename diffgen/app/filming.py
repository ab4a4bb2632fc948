"""Draw clips, write each frame by frame as it is decoded, and say what happened: behind `video` and `replay`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgen.app.display import Display, note
from diffgen.app.drawing import Report, plain, where
from diffgen.app.errors import Interrupted
from diffgen.app.outputs import Outputs
from diffgen.app.verdict import Verdict
from diffgen.media import Encoding, FrameHash, Sound, new_clip, save_image, save_npz, to_pixels
from diffgen.media.containers import Shape
from diffgen.media.rates import exact_rate
from diffgen.media.sequence import FolderWriter

if TYPE_CHECKING:
    import numpy as np

    from diffgen.checkpoints import Model
    from diffgen.pipelines.drawing import Clip, Event, Frames
    from diffgen.recipe import Recipe

SHEET_FRAMES, SHEET_SIDE = 16, 2048  # of a page of a clip's frames, at most


@dataclass(frozen=True, kw_only=True)
class Filming:
    """How clips are written.

    Attributes:
        sheet: a page of frames beside each clip.
        keep_frames: every frame as PNG beside each clip, from the moment it is decoded, whatever happens then.
        sound: an audio track to pass through.
        streamed: frames are final as they come; else only whole clips are.
    """

    encoding: Encoding = field(default_factory=Encoding)
    sheet: bool = False
    keep_frames: bool = False
    sound: Sound | None = None
    streamed: bool = True


def film(
    events: Iterator[Event], recipes: Sequence[Recipe], outputs: Outputs, how: Filming, report: Report, screen: Display
) -> None:
    """Writes every clip of `events`; for .npz all of them at the end.

    Raises:
        Interrupted: Ctrl-C; the message says how far it was and what was kept.
    """
    from diffgen.pipelines import Clip, Progress
    from diffgen.pipelines.drawing import Frames

    made: list[Clip] = []
    at: Progress | None = None
    try:
        for event in events:
            if isinstance(event, Progress):
                at = event
                screen.step(event)
            elif isinstance(event, Frames) and how.streamed and not outputs.arrays:
                _write(event, events, recipes[event.index], outputs, how, report, screen)
            elif isinstance(event, Frames):
                screen.decoded(event)
            elif isinstance(event, Clip):
                event = event if how.streamed else hashed(event)
                report.remark(event.recipe.notes)
                if outputs.arrays:
                    made.append(event)
                else:
                    _write(_whole(event), iter([event]), event.recipe, outputs, how, report, screen)
        if outputs.arrays:
            report.file(_save_arrays(outputs, made), "clips", recipes=[plain(clip.recipe) for clip in made])
    except KeyboardInterrupt:
        kept = ", ".join(str(path) for path in report.kept) or "nothing"
        raise Interrupted(f"stopped{where(at)}; kept: {kept}") from None
    screen.finish([])


def hashed(clip: Clip) -> Clip:
    """The clip with the hash of its frames as they are now, which its task may have changed after decoding."""
    from diffgen.pipelines.drawing import FRAMES_SHA256

    found = FrameHash()
    found.add(clip.pixels)
    size = {"frames": len(clip.pixels), "height": clip.pixels.shape[1], "width": clip.pixels.shape[2]}
    extra = {**clip.recipe.extra, FRAMES_SHA256: found.hexdigest()}
    return replace(clip, recipe=replace(clip.recipe, extra=extra, **size))


def _whole(clip: Clip) -> Frames:
    from diffgen.pipelines.drawing import Frames

    return Frames(index=clip.index, start=0, total=len(clip.pixels), pixels=clip.pixels)


def _write(
    first: Frames, events: Iterator[Event], recipe: Recipe, outputs: Outputs, how: Filming, report: Report,
    screen: Display,
) -> None:  # fmt: skip
    """Writes one clip: `first` and what follows of it in `events`, up to its end."""
    from diffgen.pipelines.drawing import Clip, Frames

    path, index = outputs.path(first.index), first.index
    high, wide = first.pixels.shape[1:3]
    shape = Shape(width=wide, height=high, fps=exact_rate(recipe.fps or 8))
    sheet = _Sheet(total=first.total)
    with ExitStack() as stack:
        aside = stack.enter_context(_aside(outputs, index, shape, report)) if how.keep_frames else None
        clip = stack.enter_context(
            new_clip(
                path, width=wide, height=high, fps=shape.fps, encoding=how.encoding, sound=how.sound,
                overwrite=outputs.force and outputs.named,
            )
        )  # fmt: skip
        event: Event = first
        while isinstance(event, Frames):
            pixels = to_pixels(event.pixels)
            if aside:
                for frame in pixels:
                    aside.add(frame)
            clip.add(pixels)
            sheet.add(event.start, pixels)
            screen.decoded(event)
            event = next(events)
        assert isinstance(event, Clip), "a clip's frames come together, then the clip"
        clip.recipe = event.recipe
        if aside:
            aside.finish(event.recipe, None)
    report.remark((*event.recipe.notes, *clip.notes))
    report.file(path, "clip", recipe=plain(event.recipe))
    if how.sheet:
        report.file(save_image(outputs.beside(index, "-sheet.png"), sheet.page()), "contact sheet")


@contextmanager
def _aside(outputs: Outputs, index: int, shape: Shape, report: Report) -> Iterator[FolderWriter]:
    """A folder beside the clip that takes its frames one by one and stays, however the clip ends."""
    folder = outputs.beside(index, "-frames")
    folder.mkdir(parents=True)
    writer = FolderWriter(folder, shape, Encoding())
    try:
        yield writer
    except BaseException:
        note(f"{writer.count} frames were kept in {folder}")
        raise
    report.file(folder, "frames")


@dataclass
class _Sheet:
    """Picks evenly spread frames of a clip of `total` frames as they come by."""

    total: int
    seen: list[np.ndarray] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def add(self, start: int, pixels: np.ndarray) -> None:
        count = min(self.total, SHEET_FRAMES)
        wanted = {round(k * (self.total - 1) / max(count - 1, 1)) for k in range(count)}
        for k, frame in enumerate(pixels, start):
            if k in wanted:
                self.seen.append(frame.copy())
                self.labels.append(f"frame {k + 1}")

    def page(self) -> np.ndarray:
        import numpy as np

        from diffgen.media.sheet import contact_sheet

        return np.asarray(contact_sheet(self.seen, labels=self.labels, max_side=SHEET_SIDE))


def _save_arrays(outputs: Outputs, made: Sequence[Clip]) -> Path:
    import numpy as np

    return save_npz(
        outputs.folder / f"{outputs.stems[0]}{outputs.extension}",
        np.stack([clip.pixels for clip in made]),
        np.stack([clip.latents for clip in made]),
        made[0].recipe,
        overwrite=outputs.force,
    )


def film_again(
    model: Model, recipe: Recipe, first: Path | None, target: Outputs | None, report: Report, screen: Display,
    moved: Mapping[str, Any],
) -> Verdict | None:  # fmt: skip
    """Draws a clip again and writes it to `target`, if given; whether its frames are those that the recipe tells of.

    None where the recipe holds no hash of them.

    Args:
        first: the picture that the clip began with.
        moved: finds adapters, as `diffgen.pipelines.refilm.stream` takes it.

    Raises:
        UsageError: the recipe needs what it does not hold.
    """
    from diffgen.media import load_image
    from diffgen.pipelines import Clip, refilm
    from diffgen.pipelines.drawing import FRAMES_SHA256

    then = recipe.extra.get(FRAMES_SHA256)
    streamed = recipe.task != "loop"
    image = None if first is None else load_image(first)
    screen.begin(model.family, [])
    last: list[Clip] = []

    def watched() -> Iterator[Event]:
        keep = not streamed or (target is not None and target.arrays)
        for event in refilm.stream(model, recipe, image=image, keep=keep, **moved):
            if isinstance(event, Clip):
                last.append(event if streamed else hashed(event))
            yield event

    if target is None:
        for _ in watched():
            pass
    else:
        film(watched(), [recipe], target, Filming(streamed=streamed), report, screen)
    return None if then is None else Verdict(same=last[0].recipe.extra[FRAMES_SHA256] == then)
