"""Recipes: JSON files that say how a method trains. Read once, checked whole, turned into frozen settings."""

from __future__ import annotations

import dataclasses
import json
import typing
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from diffgen.errors import UsageError, unknown

T = TypeVar("T")
SECTIONS = ("method", "loop", "settings")


def names() -> list[str]:
    """The recipes that come with diffgen."""
    folder = resources.files("diffgen.train") / "recipes"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def read(recipe: str, method: str) -> dict[str, dict[str, Any]]:
    """A recipe's "loop" and "settings" tables.

    Args:
        recipe: a name from `names`, or the path of a JSON file.
        method: what the recipe has to be for.

    Raises:
        UsageError: no such recipe, not JSON, a section it must not have, or made for another method.
    """
    if recipe.endswith(".json"):
        path = Path(recipe)
        if not path.is_file():
            raise UsageError(f"no recipe file {recipe}")
        text = path.read_text(encoding="utf-8")
    elif recipe in names():
        text = (resources.files("diffgen.train") / "recipes" / f"{recipe}.json").read_text(encoding="utf-8")
    else:
        raise unknown("recipe", recipe, names())
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"recipe {recipe} is not JSON: {error}") from error
    for section in data:
        if section not in SECTIONS:
            raise unknown(f"section in recipe {recipe}", section, SECTIONS)
    if data.get("method") != method:
        raise UsageError(f"recipe {recipe} is for {data.get('method')!r}, not for {method!r}")
    return {"loop": data.get("loop", {}), "settings": data.get("settings", {})}


def override(table: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """`table` with "key=value" changes from the command line; values are JSON, or else plain text.

    Raises:
        UsageError: a change has no "=".
    """
    table = dict(table)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"a change is written key=value, not {change!r}")
        try:
            table[key] = json.loads(value)
        except json.JSONDecodeError:
            table[key] = value
    return table


def settings(kind: type[T], table: dict[str, Any]) -> T:
    """`table` as the frozen dataclass `kind`; nested tables become nested dataclasses.

    Raises:
        UsageError: an unknown key (the choices are listed), a missing key, or a value of the wrong type.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise unknown(f"{kind.__name__} key", key, fields)
        values[key] = _fit(kind.__name__, key, hints[key], value)
    missing = [
        n for n, f in fields.items() if n not in values and f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{kind.__name__} lacks {', '.join(missing)}")
    return kind(**values)


def _fit(owner: str, key: str, hint: Any, value: Any) -> Any:
    """A JSON value as the field's type."""
    if dataclasses.is_dataclass(hint):
        return settings(typing.cast(type, hint), value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    expected = (int, float) if hint is float else typing.get_origin(hint) or hint
    if not isinstance(value, expected) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{owner}.{key} is {value!r}; a {getattr(hint, '__name__', hint)} is needed")
    return value
