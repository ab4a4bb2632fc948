"""The bar and the preview in a terminal, and silence where there is none."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from diffgen.app import display
from diffgen.app.blocks import HalfBlocks, cells_for

RED, WHITE = (255, 0, 0), (255, 255, 255)


def console(width: int = 80, height: int = 40) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, color_system="truecolor", width=width, height=height), file


@pytest.mark.parametrize(
    ("shape", "room", "cells"),
    [((128, 128), (80, 20), (40, 20)), ((64, 128), (80, 40), (80, 20)), ((512, 8), (80, 10), (1, 10))],
)  # fmt: skip
def test_a_picture_keeps_its_shape(shape: tuple[int, int], room: tuple[int, int], cells: tuple[int, int]) -> None:
    height, width = shape
    assert cells_for(width, height, *room) == cells


def test_two_pixels_a_cell_and_one_segment_for_equal_neighbours() -> None:
    screen, file = console()
    pixels = np.full((4, 8, 3), WHITE, np.uint8)
    pixels[1, 4:] = RED
    screen.print(HalfBlocks(pixels, 8, 2), end="")
    lines = file.getvalue().splitlines()
    white, red = "38;2;255;255;255;48;2;255;255;255", "38;2;255;255;255;48;2;255;0;0"
    assert lines[0] == f"\x1b[{white}m▀▀▀▀\x1b[0m\x1b[{red}m▀▀▀▀\x1b[0m"
    assert lines[1] == f"\x1b[{white}m▀▀▀▀▀▀▀▀\x1b[0m"
    assert len(lines) == 2


def event(first: int, step: int, batch: int = 1) -> Any:
    return SimpleNamespace(first=first, batch=batch, step=step, steps=4, x0=torch.zeros(batch, 4, 1, 4, 4))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bar_tells_where_it_is(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffgen.preview.projection", lambda family: lambda x0: np.zeros((4, 4, 3), np.uint8))
    screen, file = console(width)
    recipes: Any = [SimpleNamespace(steps=4)] * 2
    with display.TerminalDisplay(screen, 2, True) as bar:
        bar.begin(SimpleNamespace(), recipes)  # type: ignore[arg-type]
        bar.step(event(0, 4))
        bar.step(event(1, 2))
        assert isinstance(bar, display.TerminalDisplay)
        assert bar.bar.tasks[0].completed == 6 and bar.bar.tasks[0].total == 8
        bar.live.refresh()
        print("a.png")
        bar.finish([np.zeros((4, 4, 3), np.uint8)])
    assert capsys.readouterr().out == "a.png\n"
    text = file.getvalue()
    assert "loading the model" in text
    assert "▀" in text
    assert width < 80 or "picture 2/2, step 2/4" in text


def test_replay_tells_no_steps() -> None:
    screen, _ = console()
    with display.TerminalDisplay(screen, 1, False) as bar:
        bar.begin(SimpleNamespace(), [])  # type: ignore[arg-type]
        assert isinstance(bar, display.TerminalDisplay)
        assert bar.bar.tasks[0].total is None


def test_no_terminal_no_display(capsys: pytest.CaptureFixture[str]) -> None:
    assert type(display.new_display(1, None)) is display.Display
    assert capsys.readouterr().err == ""
    assert type(display.new_display(1, True)) is display.Display
    assert "no preview" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("colours", "width", "asked", "preview"),
    [("truecolor", 80, None, True), ("256", 80, None, False), ("256", 80, True, True), ("truecolor", 30, True, False),
     ("truecolor", 80, False, False)],
)  # fmt: skip
def test_the_preview_needs_room_and_colours(
    colours: Any, width: int, asked: bool | None, preview: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Console(file=io.StringIO(), force_terminal=True, color_system=colours, width=width, height=40)
    monkeypatch.setattr("rich.console.Console", lambda **more: made)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    found = display.new_display(1, asked)
    assert isinstance(found, display.TerminalDisplay) and found.preview is preview
