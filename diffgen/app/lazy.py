"""Commands that are imported when they are called, so that `diffgen --help` reads none of them.

The group knows each command's name, where it lives and one line of help. Only the command that is called,
or completed by the shell, is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, kw_only=True)
class Lazy:
    """A row of the command table.

    Attributes:
        module: where the command lives.
        attribute: the Typer app in that module, or a function.
        help: the line that `diffgen --help` shows.
        below: the name of a sub-command that the function becomes; empty where it is the command itself.
    """

    module: str
    attribute: str
    help: str
    below: str = ""

    def load(self, name: str) -> Any:
        """The command under `name`, imported now."""
        found = getattr(import_module(self.module), self.attribute)
        # Of a group only its commands: the options that install shell completion belong to `diffgen` itself.
        grouped = isinstance(found, typer.Typer)
        command: Any = typer.main.get_group(found) if grouped else typer.main.get_command(self._app(name, found))
        command.name = name
        return command

    def _app(self, name: str, function: Callable[..., None]) -> typer.Typer:
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(name=self.below or name)(function)
        if self.below:
            # A callback makes Typer build a group although it holds one command only.
            app.callback(help=self.help, no_args_is_help=True)(_nothing)
        return app


def _nothing() -> None:
    """A group with no options of its own."""


def lazy_group(table: Mapping[str, Lazy]) -> type[TyperGroup]:
    """A Typer group class whose commands are those of `table`, in its order."""

    class LazyGroup(TyperGroup):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            for name, row in table.items():
                self.commands[name] = TyperCommand(name, help=row.help)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, command, rest = super().resolve_command(ctx, args)
            return name, table[name].load(name) if name and name in table else command, rest

    return LazyGroup
