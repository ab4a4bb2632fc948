"""`diffgen show`: how a picture or a clip was made, whichever tool made it. Without importing torch."""

from __future__ import annotations

import json as encoder
from pathlib import Path
from typing import Annotated, Any

import typer

from diffgen.app.display import note
from diffgen.app.tables import print_fields
from diffgen.checkpoints.replaced import PARTS
from diffgen.errors import DiffgenError
from diffgen.foreign import Description, describe
from diffgen.media.rates import exact_rate, shown
from diffgen.recipe import Recipe

Files = Annotated[list[Path], typer.Argument(metavar="FILE", help="Pictures and clips, or folders of frames.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a file, each on a line.")]


ADAPTERS = "adapters"  # as `diffgen.pipelines.adapting` writes it, which imports torch


class NothingKnown(DiffgenError):
    """A picture that says nothing of how it was made."""


def show(files: Files, json: Json = False) -> None:
    """Say how a picture or a clip was made.

    Reads diffgen's pictures and clips, and those of AUTOMATIC1111, Forge, ComfyUI,
    InvokeAI, NovelAI and SwarmUI as far as they tell. Exits with 1 where a
    picture says nothing.

    Examples:
      diffgen show apple.png
      diffgen show *.png --json
      diffgen show cat.png --json | jq .recipe.prompt
    """
    silent = []
    for number, file in enumerate(files):
        found = describe(file)
        if json:
            print(encoder.dumps(document(file, found)))
        elif found.recipe is not None:
            print("\n" * (number > 0) + f"{file} ({found.tool})")
            print_fields(lines(found.recipe))
        if not json:
            for text in found.notes:
                note(f"{file}: {text}")
        if found.recipe is None:
            silent.append(str(file))
    if silent:
        raise NothingKnown(f"nothing in {', '.join(silent)} says how it was made")


def document(file: Path, found: Description) -> dict[str, Any]:
    """What `--json` prints for a file."""
    recipe = None if found.recipe is None else encoder.loads(found.recipe.to_json())
    return {"file": str(file), "tool": found.tool, "recipe": recipe, "notes": list(found.notes)}


def lines(recipe: Recipe) -> list[tuple[str, str]]:
    """A recipe as names and values for people; what is not known is left out."""
    size = None if recipe.width is None else f"{recipe.width} x {recipe.height}"
    batch = None if recipe.batch == 1 else f"picture {recipe.index + 1} of {recipe.batch} drawn together"
    known = {
        "prompt": recipe.prompt, "negative": recipe.negative, "seed": recipe.seed, "size": size,
        "frames": recipe.frames, "frames a second": recipe.fps and shown(exact_rate(recipe.fps)),
        "steps": recipe.steps, "guidance": recipe.guidance,
        "sampler": recipe.sampler, "schedule": recipe.schedule,
        "settings": _pairs({name: value for name, value in recipe.settings.items() if name not in (PARTS, ADAPTERS)}),
        "adapters": _files(recipe.settings.get(ADAPTERS)), "parts": _files(recipe.settings.get(PARTS)),
        "model": recipe.model, "model hash": recipe.model_hash and recipe.model_hash[:16], "task": recipe.task,
        "dtype": recipe.dtype, "device": recipe.device, "threads": recipe.threads, "batch": batch,
        "versions": _pairs(recipe.versions), "also": _pairs(recipe.extra), "notes": "\n".join(recipe.notes),
    }  # fmt: skip
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]


def _files(entries: Any) -> str:
    """Adapters, a list, or parts, a table: what it is, its file, its hash and how strong it is, a line each."""
    named = entries.items() if isinstance(entries, dict) else [("", entry) for entry in entries or ()]
    lines = []
    for name, value in named:
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, dict):
                lines.append(f"{name} {entry}")
                continue
            more = {key: entry[key] for key in ("strength", "text_strength", "blocks", "word") if key in entry}
            lines.append(f"{name} {entry.get('file')} ({str(entry.get('sha256'))[:12]}) {_pairs(more)}".strip())
    return "\n".join(lines)


def _pairs(table: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in table.items())
