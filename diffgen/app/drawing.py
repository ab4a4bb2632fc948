"""Draw what was asked, save each picture as it comes, and say what happened: behind `image` and `replay`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgen.app.display import Display, note
from diffgen.app.errors import Interrupted, StrictError
from diffgen.app.outputs import Outputs

if TYPE_CHECKING:
    import numpy as np

    from diffgen.pipelines import Event, Picture, Progress
    from diffgen.recipe import Recipe

SHEET_SIDE = 4096  # pixels along the longer side of a contact sheet, at most


@dataclass
class Report:
    """Tells standard output about files, as paths or as one JSON object a line, and standard error about notes."""

    as_json: bool
    kept: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def file(self, path: Path, kind: str, **more: Any) -> None:
        """A file is written."""
        self.kept.append(path)
        print(json.dumps({"kind": kind, "file": str(path), **more}) if self.as_json else path, flush=True)

    def remark(self, notes: Iterable[str]) -> None:
        """Notes on a picture; what is true of several pictures is told once."""
        self.notes += [text for text in dict.fromkeys(notes) if text not in self.notes]

    def close(self, strict: bool = False) -> None:
        """Tells the notes.

        Raises:
            StrictError: there are some, and they count as errors.
        """
        for text in self.notes:
            note(text)
        if strict and self.notes:
            raise StrictError("under --strict a note is an error; what was drawn is kept")


def draw(events: Iterable[Event], outputs: Outputs, report: Report, screen: Display, *, sheet: bool = True) -> None:
    """Saves every picture of `events` as it comes, then the contact sheet where there are several.

    Raises:
        Interrupted: Ctrl-C; the message says how far it was and what was kept.
    """
    from diffgen.media import to_pixels
    from diffgen.pipelines import Picture, Progress

    made: list[Picture] = []
    seen: list[np.ndarray] = []
    recipes: list[Recipe] = []
    at: Progress | None = None
    try:
        for event in events:
            if isinstance(event, Progress):
                at = event
                screen.step(event)
            elif isinstance(event, Picture):
                report.remark(event.recipe.notes)
                recipes.append(event.recipe)
                seen.append(_shrunk(to_pixels(event.pixels), len(outputs.stems)))
                if outputs.arrays:
                    made.append(event)
                else:
                    path = outputs.save(event.index, event.pixels, event.recipe)
                    report.file(path, "picture", recipe=plain(event.recipe))
        if outputs.arrays:
            report.file(_save_arrays(outputs, made), "arrays", recipes=[plain(recipe) for recipe in recipes])
        elif sheet and len(seen) > 1:
            seen = [_sheet(seen, recipes)]
            report.file(outputs.save_sheet(seen[0]), "contact sheet")
    except KeyboardInterrupt:
        kept = ", ".join(str(path) for path in report.kept) or "nothing"
        raise Interrupted(f"stopped{where(at)}; kept: {kept}") from None
    screen.finish(seen)


def where(at: Progress | None) -> str:
    """How far drawing was, for a message."""
    if at is None:
        return " before the first step"
    last = at.first + at.batch
    which = f"{at.first + 1} to {last}" if at.batch > 1 else str(last)
    several = f" of picture {which} of {at.total}" if at.total > 1 else ""
    return f" at step {at.step} of {at.steps}{several}"


def plain(recipe: Recipe) -> Any:
    """The recipe as data for JSON."""
    return json.loads(recipe.to_json())


def _shrunk(pixels: np.ndarray, count: int) -> np.ndarray:
    """As large as a contact sheet of `count` pictures can show it, so that a thousand fit in memory."""
    import numpy as np
    from PIL import Image

    side = max(8, SHEET_SIDE // math.ceil(math.sqrt(count)))
    if max(pixels.shape[:2]) <= side:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _sheet(pictures: Sequence[np.ndarray], recipes: Sequence[Recipe]) -> np.ndarray:
    import numpy as np

    from diffgen.media.sheet import contact_sheet

    alike = len({recipe.prompt for recipe in recipes}) == 1
    labels = [f"seed {recipe.seed}" if alike else f"{recipe.prompt} ({recipe.seed})" for recipe in recipes]
    return np.asarray(contact_sheet(pictures, labels=labels, max_side=SHEET_SIDE))


def _save_arrays(outputs: Outputs, made: Sequence[Picture]) -> Path:
    import numpy as np

    from diffgen.media import save_npz

    return save_npz(
        outputs.folder / f"{outputs.stems[0]}{outputs.extension}",
        np.stack([picture.pixels for picture in made]),
        np.stack([picture.latents for picture in made]),
        made[0].recipe,
        overwrite=outputs.force,
    )
