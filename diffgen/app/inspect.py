"""`diffgen inspect`: what a weight file or a diffusers folder holds, read from headers alone."""

from __future__ import annotations

import json as encoder
from pathlib import Path
from typing import Annotated

import typer

from diffgen.app.errors import StrictError
from diffgen.app.image import Strict

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="Weight files or diffusers folders.")]
Hash = Annotated[bool, typer.Option("--hash", help="Compute the hash too, which reads every byte once.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a file, each on a line.")]


def inspect(files: Files, hash: Hash = False, json: Json = False, strict: Strict = False) -> None:
    """Say what a weight file or a diffusers folder holds.

    Reads headers only, so a file of 20 GB takes milliseconds. Under --strict
    a missing, unexpected or misshapen weight makes the exit code 1.

    Examples:
      diffgen inspect model.safetensors
      diffgen inspect wan/ flux.gguf --json
    """
    from diffgen.checkpoints.report import inspect as look

    reports = [look(file, hashed=hash) for file in files]
    for report in reports:
        print(encoder.dumps(report.as_dict()) if json else "\n".join(report.lines()))
    gaps = [gap for report in reports for gap in report.gaps]
    if strict and gaps:
        raise StrictError(f"under --strict a gap is an error; there are {len(gaps)}, the first is {gaps[0]}")
