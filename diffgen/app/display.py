"""What a person sees while pictures are drawn: a progress bar, a small preview, and the notes.

All of it goes to standard error, so that standard output holds paths or JSON alone. Where standard error is
no terminal nothing moves, and rich is not even imported.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from diffgen.contracts import Family
    from diffgen.pipelines import Progress
    from diffgen.pipelines.drawing import Frames
    from diffgen.recipe import Recipe

LEAST_COLUMNS, LEAST_ROWS = 40, 20
PREVIEW_COLUMNS, PREVIEW_ROWS = 64, 20
NARROW, WIDE = 60, 100  # columns; below the first words are left out, up to the second the bar takes all the room
REFRESHES = 8  # a second
BETWEEN = 0.12  # seconds between two previews; a terminal over a network is slower than the bar


def note(text: str) -> None:
    """A remark on standard error that is no error."""
    print(f"note: {text}", file=sys.stderr)


def new_display(pictures: int, preview: bool | None) -> Display:
    """The display for this terminal. `preview` None shows one where the terminal can, in 24-bit colour."""
    if not sys.stderr.isatty():
        if preview:
            note("no preview: standard error is not a terminal")
        return Display()
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_dumb_terminal:
        return Display()
    roomy = console.width >= LEAST_COLUMNS and console.height >= LEAST_ROWS
    if preview and not roomy:
        note(f"no preview: it needs a terminal of {LEAST_COLUMNS} columns and {LEAST_ROWS} rows")
    shown = roomy and (preview if preview is not None else console.color_system == "truecolor")
    return TerminalDisplay(console, pictures, shown)


class Display:
    """Shows nothing; what is used where standard error is no terminal."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def begin(self, family: Family, recipes: Sequence[Recipe]) -> None:
        """The model is there and drawing begins; no recipes means that its steps will not be told."""

    def step(self, event: Progress) -> None:
        """A step is done."""

    def decoded(self, event: Frames) -> None:
        """Some frames of a clip are decoded."""

    def finish(self, pictures: Sequence[np.ndarray]) -> None:
        """All is drawn; `pictures` are uint8 [h, w, 3], or the contact sheet alone."""


def time_left() -> Any:
    """A column of the bar: "0:07 left", and nothing while that is not known."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            if task.total is None or task.time_remaining is None:
                return Text("")
            minutes, seconds = divmod(round(task.time_remaining), 60)
            hours, minutes = divmod(minutes, 60)
            return Text(f"{hours}:{minutes:02}:{seconds:02} left" if hours else f"{minutes}:{seconds:02} left")

    return TimeLeft()


class TerminalDisplay(Display):
    """A bar with the time left, and under it the picture as it forms."""

    def __init__(self, console: Any, pictures: int, preview: bool) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn

        self.console, self.preview, self.pictures = console, preview, pictures
        self.project: Any = None
        self.images: list[Any] = []
        self.last = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None if console.width < WIDE else 40),
            TextColumn("{task.fields[where]}"), time_left(), console=console, expand=console.width < WIDE,
        )  # fmt: skip
        self.task = self.bar.add_task("loading the model", total=None, where="")
        # rich would send what is printed to the bar's console; a standard output that is a file keeps its lines.
        self.live = Live(
            get_renderable=self._render, console=console, transient=True, refresh_per_second=REFRESHES,
            redirect_stdout=sys.stdout.isatty(),
        )  # fmt: skip

    def __enter__(self) -> Display:
        self.live.start(refresh=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def begin(self, family: Family, recipes: Sequence[Recipe]) -> None:
        if self.preview:
            from diffgen.preview import projection

            self.project = projection(family)
        self.bar.update(self.task, description="drawing", total=sum(recipe.steps or 0 for recipe in recipes) or None)

    def step(self, event: Progress) -> None:
        from diffgen.app.blocks import HalfBlocks

        first, last = event.first + 1, event.first + event.batch
        picture, step = ("picture ", "step ") if self.console.width >= NARROW else ("", "")
        several = f"{first}-{last}" if last > first else first
        which = "" if self.pictures == 1 else f"{picture}{several}/{self.pictures}, "
        done = event.first * event.steps + event.batch * event.step
        self.bar.update(self.task, completed=done, where=f"{which}{step}{event.step}/{event.steps}")
        now = time.monotonic()
        if self.project is not None and (now - self.last > BETWEEN or event.step == event.steps):
            self.last = now
            shown = self.project.frames(event.x0) if event.x0.shape[2] > 1 else [self.project(event.x0)]
            self.images = [HalfBlocks(pixels, *self._room()) for pixels in shown]

    def decoded(self, event: Frames) -> None:
        self.bar.update(self.task, where=f"frame {event.start + len(event.pixels)}/{event.total}")

    def finish(self, pictures: Sequence[np.ndarray]) -> None:
        from diffgen.app.blocks import HalfBlocks

        self.live.stop()
        if self.preview:
            for pixels in pictures:
                self.console.print(HalfBlocks(pixels, *self._room()), end="")

    def _room(self) -> tuple[int, int]:
        return min(self.console.width - 1, PREVIEW_COLUMNS), min(self.console.height - 4, PREVIEW_ROWS)

    def _render(self) -> Any:
        from rich.console import Group

        if not self.images:
            return self.bar
        # A clip moves: the terminal is drawn eight times a second, each time with the next frame.
        return Group(self.bar, self.images[int(time.monotonic() * REFRESHES) % len(self.images)])

