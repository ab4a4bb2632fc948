"""The options for LoRAs and embeddings, shared by `image` and `video`, and what is told of each file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgen.app.display import note
from diffgen.errors import CheckpointError

if TYPE_CHECKING:
    from diffgen.adapters import Adapter
    from diffgen.checkpoints import Model
    from diffgen.recipe import Recipe

PANEL = "LoRAs and embeddings"


def _option(*names: str, help: str, metavar: str) -> Any:
    return typer.Option(*names, rich_help_panel=PANEL, help=help, metavar=metavar)


Lora = Annotated[
    list[str] | None,
    _option("--lora", metavar="FILE[:0.8[:0.5]]", help="A LoRA, its strength, and another one on the text encoders; "
            "then block weights, such as :lbw=IN04=0.5,MID=0. Repeatable."),
]  # fmt: skip
LoraDir = Annotated[
    list[Path] | None, _option("--lora-dir", metavar="DIR", help="Where <lora:name:0.8> in a prompt looks.")
]
Embedding = Annotated[
    list[str] | None,
    _option("--embedding", metavar="FILE[:WORD]", help="A textual inversion, and the word for it in prompts."),
]


def options(loras: Sequence[str] | None, folders: Sequence[Path] | None, embeddings: Sequence[str] | None,
            *, allow_pickle: bool) -> dict[str, Any]:  # fmt: skip
    """What `pipelines.prepare` takes of adapters, checked as far as that needs no model.

    Raises:
        CheckpointError: there is nothing at a path.
        UsageError: a strength or a block weight is none.
    """
    from diffgen.adapters import as_adapters

    chosen = (*as_adapters(loras or []), *(_embedding(text) for text in embeddings or []))
    for adapter in chosen:
        adapter.file  # noqa: B018  (refuses what is not there)
    for folder in folders or []:
        if not folder.expanduser().is_dir():
            raise CheckpointError(f"there is no folder {folder} to look for LoRAs in")
    return {"adapters": chosen, "adapter_folders": folders or [], "allow_pickle": allow_pickle}


def _embedding(text: str) -> Adapter:
    """`FILE` or `FILE:WORD`; a colon may also belong to the name of a file that is there."""
    from diffgen.adapters import Adapter

    file, colon, word = text.rpartition(":")
    if not colon or not word or Path(text).expanduser().exists() or not Path(file).expanduser().exists():
        return Adapter(Path(text))
    return Adapter(Path(file), word=word)


def tell(model: Model, recipes: Iterable[Recipe], *, as_json: bool = False) -> None:
    """Says of each adapter file how many of its keys took effect, once a file."""
    from diffgen.pipelines import adapting

    told: set[str] = set()
    for recipe in recipes:
        key = json.dumps(recipe.settings.get(adapting.ADAPTERS, []))
        if key in told or key == "[]":
            continue
        told.add(key)
        for found in adapting.applied(recipe, model.family).reports:
            if found.line not in told:
                told.add(found.line)
                note(found.line)
                if as_json:
                    print(json.dumps({"kind": "adapter", "file": found.name, "keys": found.keys, "used": found.used}))
