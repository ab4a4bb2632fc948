"""Groups of options that several commands share: the fields of a dataclass, annotated as Typer wants them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints


def takes(parameter: str, group: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command gets an option for each field of `group` in place of its parameter of that name.

    Args:
        group: a dataclass whose fields all have defaults.
    """
    names = [field.name for field in fields(group)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(group, include_extras=True)
        added = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in fields(group)
        ]
        own = inspect.signature(command, eval_str=True)
        kept = [one for one in own.parameters.values() if one.name != parameter]

        def run(*args: Any, **given: Any) -> None:
            chosen = group(**{name: given.pop(name) for name in names if name in given})
            command(*args, **{parameter: chosen}, **given)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        # Options after parameters that must be given, as Python wants them.
        run.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in (*kept, *added)}
        return run

    return decorate
