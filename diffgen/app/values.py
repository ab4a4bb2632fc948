"""What is typed on the command line, as values: sizes, settings, formats. Checked before anything heavy loads."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from diffgen.errors import UsageError, unknown
from diffgen.guidance import CFG, PUSHES
from diffgen.samplers import SAMPLERS, defaults
from diffgen.schedules import ScheduleSettings

FORMATS = ("png", "jpeg", "webp")


def size_of(text: str | None) -> tuple[int, int] | None:
    """(width, height) from "512x768", or from "512" for a square; None stays None.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d{1,6})(?:\s*[xX×*]\s*(\d{1,6}))?\s*", text)
    if not found or not int(found[1]) or not int(found[2] or 1):
        raise UsageError(f"the size is WIDTHxHEIGHT in pixels, such as 512x768; got {text!r}")
    return int(found[1]), int(found[2] or found[1])


def settings_of(
    pairs: Sequence[str], clip_skip: int | None = None, true_cfg: float | None = None
) -> dict[str, Any]:  # fmt: skip
    """{"eta": 0.5, ...} from "eta=0.5" and the like; the last of a name wins.

    Raises:
        UsageError: a pair has no "=", or its value is not of the kind the setting has.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes name=value, such as eta=0.5; got {pair!r}")
        found[key.strip()] = _value(text.strip())
    more = {"clip_skip": clip_skip, "true_cfg": true_cfg}
    found |= {name: value for name, value in more.items() if value is not None}
    check_settings(found)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses values of another kind than the setting's default, which would fail in the midst of a picture.

    Whether a name suits the sampler is for `pipelines.request` to say: names unknown here pass.

    Raises:
        UsageError: a number is needed and something else was given, or the other way round.
    """
    known = sampler_settings() | schedule_settings() | guidance_settings() | {"clip_skip": 1, "true_cfg": 1.0}
    for key, value in settings.items():
        default, words = known.get(key), _words(key)
        if words:
            fits, kind = value in words, " or ".join(words)
        elif isinstance(default, str):
            fits, kind = isinstance(value, str), f"a word, such as {default}"
        elif isinstance(default, (int, float)):
            fits, kind = _is_number(value), "a number"
            if isinstance(default, int) and fits and not float(value).is_integer():
                fits, kind = False, "a whole number"
        else:
            continue
        if not fits:
            raise UsageError(f"the setting {key} is {kind}; got {value!r}")


def _words(key: str) -> tuple[str, ...]:
    """The words a schedule setting may be, where they are a closed list."""
    hint = get_type_hints(ScheduleSettings).get(key)
    return get_args(hint) if get_origin(hint) is Literal else ()


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def sampler_settings() -> dict[str, Any]:
    """Every setting of every sampler, with its default."""
    return {key: value for name in SAMPLERS for key, value in defaults(name).items()}


def schedule_settings() -> dict[str, Any]:
    """Every setting of the schedules, with its default."""
    return {one.name: one.default for one in fields(ScheduleSettings)}


def guidance_settings() -> dict[str, Any]:
    """The settings of guidance, under the names that recipes give them, with their defaults."""
    defaults = {one.name: one.default for one in fields(CFG)}
    shared = ("method", "rescale", "percentile", "start", "stop", "converged")
    return {f"guidance_{name}": defaults[name] for name in shared} | method_settings()


def method_settings() -> dict[str, Any]:
    """The settings of every guidance method, under the names that recipes give them, with their defaults."""
    return {
        f"guidance_{name}": inspect.signature(info.function).parameters[name].default
        for info in PUSHES.values()
        for name in info.settings
    }


def check_choice(kind: str, name: str | None, choices: Sequence[str] | Mapping[str, Any]) -> None:
    """Refuses a name that is not among `choices`; None passes."""
    if name is not None and name not in choices:
        raise unknown(kind, name, choices)


def check_least(name: str, value: float | None, least: int) -> None:
    """Refuses a number below `least`, or one that is not finite; None passes."""
    if value is not None and not (math.isfinite(value) and value >= least):
        raise UsageError(f"{name} must be at least {least}; got {value}")
