"""`diffgen evaluate`: how well a model draws, and how well the frames of a clip hang together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffgen.app.train import evaluate as evaluate_box
from diffgen.errors import UsageError

HELP = """Measure how well a model draws, or how well the frames of a clip hang together.

\b
Examples:
  diffgen evaluate box --data data         ask a judge of pictures
  diffgen evaluate clip hand.mp4 --json    flicker, motion, loops
"""

app = typer.Typer(help=HELP, no_args_is_help=True)
app.command("box")(evaluate_box)

Files = Annotated[list[Path], typer.Argument(metavar="CLIP", help="Clips: movies, animations, PNG folders or .npz.")]
Joins = Annotated[
    str | None, typer.Option("--joins", metavar="16,32", help="First frames behind places where clips were joined.")
]
Rows = Annotated[
    str | None, typer.Option("--rows", metavar="64,128", help="First pixel rows behind the edges of tiles.")
]
Columns = Annotated[
    str | None, typer.Option("--columns", metavar="64,128", help="First pixel columns behind the edges of tiles.")
]
Windows = Annotated[str | None, typer.Option("--windows", metavar="12,24", help="First frames of windows.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON object a line instead of a table.")]


@app.command("clip")
def evaluate_clip(
    files: Files, joins: Joins = None, rows: Rows = None, columns: Columns = None, windows: Windows = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Measure clips: flicker, warping error, motion, loop closure, drift, joins, seams.

    Errors are in steps of 0..255, motion in pixels a frame; loop closure,
    join and seam are ratios that are 1 where nothing shows.

    Examples:
      diffgen evaluate clip wave.mp4
      diffgen evaluate clip longer.mp4 --joins 16,28 --json
    """
    places = {"joins": joins, "rows": rows, "columns": columns, "windows": windows}
    wanted = {name: places_of(name, text) for name, text in places.items()}
    from diffgen.app.clip_options import clip_at
    from diffgen.clip_quality import score

    found = [(path, score(clip_at(path)[0], **wanted).known()) for path in files]
    if json:
        from json import dumps

        for path, scores in found:
            print(dumps({"kind": "scores", "file": str(path), **scores}))
        return
    from diffgen.app.tables import print_table

    names = list(dict.fromkeys(name for _, scores in found for name in scores))
    rows_of = [
        [path.name, *(f"{scores[name]:g}" if name in scores else "" for name in names)] for path, scores in found
    ]
    print_table("Clips", ["clip", *(name.replace("_", " ") for name in names)], rows_of)


def places_of(name: str, text: str | None) -> tuple[int, ...]:
    """(16, 32) from "16,32"; () from nothing.

    Raises:
        UsageError: a part is no whole number above 0.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--{name} takes whole numbers above 0, such as 16,32; got {text!r}")
    return tuple(int(part) for part in parts)
