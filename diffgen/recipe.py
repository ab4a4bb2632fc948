"""The recipe: everything that decides a picture, as data that travels inside the picture.

Two forms are written. The JSON is whole and exact, for any text. The parameters text is the form that the
AUTOMATIC1111 web UI introduced and most tools read; `diffgen.foreign.parameters` writes and parses it, and it holds
what that form can hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from diffgen.errors import UsageError

FORMAT = 1
_MARK = "diffgen_recipe"
_SHOWN = 60

_TEXTS = ("prompt", "negative", "sampler", "schedule", "dtype", "model", "model_hash", "task", "device",
          "kernels")  # fmt: skip
_COUNTS = {
    "seed": None, "steps": 0, "width": 1, "height": 1, "frames": 1, "batch": 1, "index": 0, "threads": 1,
}  # fmt: skip
_TABLES = ("settings", "versions", "extra")
_REQUIRED = ("prompt", "negative", "task", "batch", "index")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What was asked for and what it was made with. None means "not known", as in another tool's picture.

    `seed` is this picture's own seed, not the first of its batch. `batch` is the number of pictures that
    were denoised together and `index` this picture's place among them, because in low precision the batch
    shape changes the arithmetic. `width` and `height` are pixels; `frames` and `fps`, frames a second, are
    None for a picture. `kernels` says how the layers were computed (`diffgen.kernels`), `settings` what the
    sampler, the schedule and the guidance were given beyond their defaults, `versions` the libraries by name,
    `extra` what this version does not know, and `notes` what happened on the way (a retry, a truncated prompt).
    All tables hold JSON values. Raises UsageError for a value of the wrong kind or range.
    """

    prompt: str = ""
    negative: str = ""
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    schedule: str | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    batch: int = 1
    index: int = 0
    task: str = "text_to_image"
    model: str | None = None
    model_hash: str | None = None
    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    kernels: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _REQUIRED:
            if getattr(self, name) is None:
                raise UsageError(f"the recipe's {name} is missing")
        for name in _TEXTS:
            _check_text(name, getattr(self, name))
        for name, least in _COUNTS.items():
            _check_count(name, getattr(self, name), least)
        for name in ("guidance", "fps"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.fps is not None and self.fps <= 0:
            raise UsageError(f"the recipe's fps must be above 0, not {self.fps}")
        # A copy through JSON: later changes to the caller's dict cannot reach the recipe, tuples become the
        # lists that reading gives back, and a value that JSON cannot hold is found now, not while saving.
        for name in _TABLES:
            object.__setattr__(self, name, _json_table(name, getattr(self, name)))
        for name, version in self.versions.items():
            _check_text(f"versions[{name!r}]", version)
        if not isinstance(self.notes, (list, tuple)) or not all(isinstance(n, str) for n in self.notes):
            raise UsageError(f"the recipe's notes must be a list of texts, not {_show(self.notes)}")
        object.__setattr__(self, "notes", tuple(self.notes))

    def to_json(self) -> str:
        """The whole recipe as JSON in pure ASCII, so that every container and encoding carries it exactly."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        known = {name: value for name, value in values.items() if value is not None}
        return json.dumps({_MARK: FORMAT, **known}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """The inverse of `to_json`; fields this version does not know are kept in `extra`.

        Raises UsageError for text that is not JSON, is not a recipe, or holds values of the wrong kind.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"this is not a recipe: it is not JSON ({error})") from error
        if not isinstance(data, dict) or not (_MARK in data or isinstance(data.get("prompt"), str)):
            raise UsageError(f"this JSON is not a recipe; it needs at least a prompt, seen: {_show(data)}")
        data.pop(_MARK, None)
        names = {f.name for f in fields(cls)}
        unknown = {key: data.pop(key) for key in list(data) if key not in names}
        if unknown:
            extra = data.get("extra") or {}
            if not isinstance(extra, dict):
                raise UsageError(f"the recipe's extra must be a table, not {_show(extra)}")
            data["extra"] = {**unknown, **extra}
        return cls(**data)

    def to_parameters(self) -> str:
        """The parameters text that A1111, Forge, Civitai and others read. See `diffgen.foreign.parameters`."""
        from diffgen.foreign.parameters import to_text

        return to_text(self)

    @classmethod
    def from_parameters(cls, text: str) -> Recipe:
        """The recipe that a parameters text describes, as far as it goes. See `diffgen.foreign.parameters`."""
        from diffgen.foreign.parameters import from_text

        return from_text(text)


def differences(a: Recipe, b: Recipe) -> list[str]:
    """One sentence for each thing that was so in `a` and is otherwise in `b`; empty when nothing differs.

    Notes are left out: they tell what happened, and do not decide the picture.

    >>> differences(Recipe(seed=7), Recipe(seed=8))
    ['the seed was 7 and is 8']
    """
    found = []
    for one in fields(Recipe):
        before, after = getattr(a, one.name), getattr(b, one.name)
        if one.name == "notes" or before == after:
            continue
        if one.name not in _TABLES:
            found.append(_sentence(f"the {one.name.replace('_', ' ')}", before, after))
            continue
        kind = {"settings": "the setting ", "versions": "the version of ", "extra": "the field "}[one.name]
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                found.append(_sentence(f"{kind}{key}", before.get(key), after.get(key)))
    return found


def installed_versions() -> dict[str, str]:
    """The versions that decide a picture, read from package metadata: nothing heavy is imported."""
    from importlib import metadata

    from diffgen import __version__

    found = {"diffgen": __version__}
    for name in ("torch", "diffusers", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _sentence(what: str, before: Any, after: Any) -> str:
    if before is None:
        return f"{what} was not recorded and is {_show(after)}"
    if after is None:
        return f"{what} was {_show(before)} and is not known now"
    if isinstance(before, str) and isinstance(after, str):
        # Two long prompts often differ only near the end, so both are shown from where they part.
        same = next((i for i, (x, y) in enumerate(zip(before, after, strict=False)) if x != y), None)
        same = min(len(before), len(after)) if same is None else same
        if same > _SHOWN // 2:
            start = same - _SHOWN // 4
            before, after = "…" + before[start:], "…" + after[start:]
    return f"{what} was {_show(before)} and is {_show(after)}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _check_text(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"the recipe's {name} must be a text, not {_show(value)}")


def _check_count(name: str, value: Any, least: int | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"the recipe's {name} must be a whole number, not {_show(value)}")
    if least is not None and value < least:
        raise UsageError(f"the recipe's {name} must be at least {least}, not {_show(value)}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"the recipe's {name} must be a number, not {_show(value)}")
    try:
        number = float(value)
    except OverflowError as error:
        raise UsageError(f"the recipe's {name} is too large: {_show(value)}") from error
    if number != number or number in (float("inf"), float("-inf")):
        raise UsageError(f"the recipe's {name} must be finite, not {value}")
    return number


def _json_table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"the recipe's {name} must be a table, not {_show(value)}")
    try:
        return json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the recipe's {name} holds a value that JSON cannot: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")
