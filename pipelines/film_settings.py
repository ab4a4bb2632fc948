"""Settings of clips: how a clip is spread over the model's window, whether it loops, how its prompt changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

from diffgen import long_noise
from diffgen.contracts import Family
from diffgen.errors import UsageError, unknown
from diffgen.recipe import Recipe
from diffgen.wrappers import Weighting, Windows

METHODS = ("windows", "attention")


@dataclass(frozen=True, kw_only=True)
class FilmSettings:
    """What a recipe's settings say of a clip.

    Attributes:
        context: frames that the model sees at once; None is all of them.
        context_overlap: frames that neighbouring windows share; None is a quarter of a window.
        context_weights: how windows are blended: see `diffgen.wrappers.Windows`.
        context_method: "windows" slides the whole network (memory of one window), "attention" only the motion
            modules' attention (FreeNoise: quicker, and all frames are in memory).
        long_noise: what a clip longer than a window begins with: see `diffgen.long_noise`.
        loop: the last frame goes on to the first.
        travel: prompts at times: see `diffgen.pipelines.stations`.
        strength: the part of the walk that is walked, where a clip is drawn over.
    """

    context: int | None = None
    context_overlap: int | None = None
    context_weights: str = "pyramid"
    context_method: str = "windows"
    long_noise: str = "shuffled"
    loop: bool = False
    travel: str = ""
    strength: float = 1.0

    def windows(self, family: Family, frames: int) -> Windows | None:
        """How the latents of `frames` frames are divided; None where the model sees them all at once.

        Raises:
            UsageError: a window is longer than the model's positions, or the settings do not fit together.
        """
        spec, unit = family.spec, family.spec.frame_lead + 1
        if self.context is None and not self.loop:
            return None
        context = min(self.context or frames, frames)
        if spec.most_frames is not None and context > spec.most_frames:
            raise UsageError(
                f"a context of {context} frames is too long for {family.name}; it sees {spec.most_frames} at most"
            )
        overlap = max(context // 4, 1) if self.context_overlap is None else self.context_overlap
        if not 0 <= overlap < max(context, 2):
            raise UsageError(f"the overlap must be 0 to {context - 1} in a context of {context} frames; got {overlap}")
        length = _latents(context, spec.frame_factor, unit)
        shared = min(-(-overlap // spec.frame_factor), length - unit)
        return Windows(
            length=length, overlap=shared, weighting=cast(Weighting, self.context_weights), loop=self.loop, unit=unit
        )


def _latents(frames: int, factor: int, unit: int) -> int:
    return max(((frames - 1) // factor + unit) // unit, 1) * unit


NAMES = tuple(one.name for one in fields(FilmSettings))
_KINDS: Mapping[str, tuple[type, ...]] = {
    "context": (int,), "context_overlap": (int,), "strength": (int, float), "loop": (bool,),
    "context_weights": (str,), "context_method": (str,), "long_noise": (str,), "travel": (str,),
}  # fmt: skip


def read(settings: Mapping[str, Any]) -> FilmSettings:
    """The settings of clips among a recipe's.

    Raises:
        UsageError: a value is of the wrong kind or out of range.
    """
    given = {name: settings[name] for name in NAMES if settings.get(name) is not None}
    for name, value in given.items():
        if not isinstance(value, _KINDS[name]) or (isinstance(value, bool) and name != "loop"):
            raise UsageError(f"the setting {name} must be {_KINDS[name][-1].__name__}; got {value!r}")
    film = FilmSettings(**given)
    if film.context is not None and film.context < 2:
        raise UsageError(f"context must be at least 2 frames; got {film.context}")
    if not 0 < film.strength <= 1:
        raise UsageError(f"strength must be above 0 and at most 1; got {film.strength}")
    if film.context_method not in METHODS:
        raise unknown("context method", film.context_method, METHODS)
    if film.long_noise not in long_noise.KINDS:
        raise unknown("noise for long clips", film.long_noise, long_noise.KINDS)
    return film


def filled(family: Family, frames: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with a context where the clip is longer than the model's window, or prompts need windows.

    Raises:
        UsageError: as `read` and `FilmSettings.windows`.
    """
    film, spec = read(settings), family.spec
    added: dict[str, Any] = {}
    if film.context is None and spec.most_frames is not None and frames > spec.most_frames:
        added["context"] = spec.frames
    elif film.context is None and film.travel and "frame_text" not in family.caps:
        # The network has one text for all that it sees: only windows can have texts of their own.
        added["context"] = max(spec.frame_factor * ((frames - 1) // spec.frame_factor // 2) + 1, 2)
    found = {**settings, **added}
    if found.get("context") is not None and found["context"] < frames:
        found.setdefault("context_overlap", max(int(found["context"]) // 4, 1))
    read(found).windows(family, frames)
    return found


def check_loop(family: Family, frames: int) -> None:
    """Refuses a number of frames that no loop of the family's can have, and names the nearest it can.

    Raises:
        UsageError: it is no multiple of `frame_step` of `family.spec`.
    """
    unit = family.spec.frame_step or family.spec.frame_factor
    if frames < 1 or frames % unit:
        near = max(frames // unit, 1) * unit
        raise UsageError(
            f"a loop of {frames} frames cannot be drawn, and cutting one would open it; {family.name} draws loops of "
            f"{unit} k frames, such as {near} or {near + unit}"
        )


def of(recipe: Recipe) -> FilmSettings:
    """The settings of clips in a recipe."""
    return read(recipe.settings)
