"""Plain tables on standard output: fitted to the terminal, and unbroken lines where there is none."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence

PIPED_WIDTH = 400  # wide enough that no line of a table is broken for the program that reads it
ROOMY = 100


def width() -> int:
    """Columns that a table on standard output may take."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_WIDTH


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A heading and rows of text; a heading in brackets marks a column that narrow terminals go without."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [k for k, column in enumerate(columns) if width() >= ROOMY or not column.startswith("(")]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for k in shown:
        table.add_column(columns[k].strip("()"), no_wrap=k == 0, overflow="fold")
    for row in rows:
        # Text, since brackets in a string are markup to rich.
        table.add_row(*[Text(row[k]) for k in shown])
    console = Console(width=width())
    console.print(Text(title, style="bold"))
    console.print(table)
    console.print()


def print_fields(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other, long values wrapped beside their name."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    Console(width=width()).print(table)
