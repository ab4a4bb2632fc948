"""What other tools wrote into their pictures, as a Recipe as far as it goes.

| tool | where |
|---|---|
| diffgen | `diffgen`: JSON |
| AUTOMATIC1111, Forge, SD.Next | `parameters`: text; in JPEG and WebP the EXIF UserComment |
| ComfyUI | `prompt`: the graph that ran; `workflow`: the graph in the editor |
| InvokeAI | `invokeai_metadata`; before 3.0 `sd-metadata`, before that `Dream`, a command line |
| NovelAI | `Comment`: JSON, beside `Software: NovelAI` |
| SwarmUI | `parameters`: JSON with `sui_image_params` |

A tool's own names for samplers and schedules become ours where there is a counterpart (`diffgen.foreign.names`).
Sources: the tools' public documentation of these formats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffgen.errors import UsageError
from diffgen.foreign.comfyui import read_graph
from diffgen.foreign.comfyui_workflow import from_workflow
from diffgen.foreign.invokeai import read_invokeai
from diffgen.foreign.names import name_samplers, take
from diffgen.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a picture says of itself. `tool` is None and `recipe` is None when it says nothing.

    `raw` holds the texts as they stand in the picture. `notes` say what could not be read or was guessed.
    """

    tool: str | None = None
    recipe: Recipe | None = None
    raw: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def describe(path: str | Path) -> Description:
    """Reads a picture's recipe, whichever tool wrote it.

    Malformed metadata gives no recipe and a note. Raises UsageError only for a file that is no picture.
    """
    from diffgen.media import read_metadata

    return describe_texts(read_metadata(path))


def describe_texts(raw: Mapping[str, str]) -> Description:
    """As `describe`, from texts under the names they have in a PNG. Never raises for what they hold."""
    texts, tool, notes = _unwrap(dict(raw)), None, []
    for name, reader in _READERS:
        try:
            found = reader(texts)
        except (UsageError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            # These files come from anywhere; whatever is wrong inside is told, and the next reader tries.
            tool = tool or name
            notes.append(f"the {name} data in this picture could not be read: {error}")
            continue
        if found is None:
            continue
        shown, recipe, more = found
        notes += more
        if recipe is not None and not (recipe.prompt or recipe.seed is not None or recipe.steps is not None):
            notes.append(f"the {name} data in this picture does not say how it was drawn")
        elif recipe is not None:
            return Description(tool=shown, recipe=recipe, raw=raw, notes=tuple(notes))
        tool = tool or shown
    return Description(tool=tool, raw=raw, notes=tuple(notes))


def _unwrap(texts: dict[str, str]) -> dict[str, str]:
    """NovelAI's WebP keeps a JSON table of its PNG texts in the EXIF UserComment."""
    wrapped = texts.get("parameters", "")
    if '"Comment"' in wrapped and wrapped.lstrip().startswith("{"):
        data = _json(wrapped, {})
        if isinstance(data, dict) and isinstance(data.get("Comment"), str):
            return {**texts, **{key: value for key, value in data.items() if isinstance(value, str)}}
    return texts


def _diffgen(texts: dict[str, str]) -> tuple[str, Recipe, list[str]] | None:
    if "diffgen" not in texts:
        return None
    recipe = Recipe.from_json(texts["diffgen"])
    return "diffgen", recipe, list(recipe.notes)


def _a1111(texts: dict[str, str]) -> tuple[str, Recipe, list[str]] | None:
    text = texts.get("parameters", "")
    # A prompt may begin with "{red|blue}", so only what is JSON as a whole belongs to another tool.
    if not text or isinstance(_json(text, None), dict):
        return None
    recipe = Recipe.from_parameters(text)
    version, app = recipe.versions.get("Version", ""), str(recipe.extra.get("App", ""))
    tool = "AUTOMATIC1111"
    if "diffgen" in recipe.versions:
        tool = "diffgen"
    elif app:
        tool = app
    elif version.startswith(("f", "neo", "classic")):
        tool = "Forge"
    elif version.lower().startswith("comfyui"):
        tool = "ComfyUI"
    notes = list(recipe.notes)
    if recipe.seed is None and recipe.steps is None:
        notes.append("the text holds a prompt, but no settings that could be read")
    return tool, recipe, notes


def _comfyui(texts: dict[str, str]) -> tuple[str, Recipe | None, list[str]] | None:
    notes: list[str] = []
    for key in ("prompt", "workflow"):
        data = _json(texts.get(key, ""), None)
        if not isinstance(data, dict):
            if texts.get(key, "").lstrip().startswith("{"):
                notes.append(f"the ComfyUI {key} is damaged")
            continue
        fields, more = read_graph(data if key == "prompt" else from_workflow(data))
        notes += more
        if fields:
            if key == "workflow":
                notes.append("read from the editor's workflow; the values of custom nodes may be missing")
            return "ComfyUI", _recipe(fields, notes), notes
    return ("ComfyUI", None, notes) if notes else None


def _swarm(texts: dict[str, str]) -> tuple[str, Recipe, list[str]] | None:
    if "sui_image_params" not in texts.get("parameters", ""):
        return None
    data = json.loads(texts["parameters"])["sui_image_params"]
    names = {"prompt": "prompt", "negativeprompt": "negative", "seed": "seed", "steps": "steps"}
    fields = take(
        data, names | {"cfgscale": "guidance", "width": "width", "height": "height", "model": "model"}
    )
    name_samplers(fields, data.pop("sampler", None), data.pop("scheduler", None))
    notes: list[str] = []
    return "SwarmUI", _recipe({**fields, "extra": data}, notes), notes


def _novelai(texts: dict[str, str]) -> tuple[str, Recipe, list[str]] | None:
    if texts.get("Software") != "NovelAI" and '"uc"' not in texts.get("Comment", ""):
        return None
    data = json.loads(texts["Comment"])
    names = {"prompt": "prompt", "uc": "negative", "seed": "seed", "steps": "steps", "scale": "guidance"}
    fields = {"prompt": texts.get("Description", "")} | take(
        data, {**names, "width": "width", "height": "height"}
    )
    name_samplers(fields, data.pop("sampler", None), data.pop("noise_schedule", None))
    fields["settings"] = take(data, {"strength": "strength", "cfg_rescale": "guidance_rescale"})
    notes: list[str] = []
    return "NovelAI", _recipe({**fields, "model": texts.get("Source"), "extra": data}, notes), notes


def _invoke(texts: dict[str, str]) -> tuple[str, Recipe, list[str]] | None:
    notes: list[str] = []
    fields = read_invokeai(texts)
    return None if fields is None else ("InvokeAI", _recipe(fields, notes), notes)


def _recipe(fields: dict[str, Any], notes: list[str]) -> Recipe:
    """A Recipe from a foreign tool's fields; a value that a Recipe refuses goes to `extra` with a note."""
    extra, kept = dict(fields.pop("extra", {})), {}
    for name, value in fields.items():
        if value is None:
            continue
        try:
            Recipe(**{name: value})
        except UsageError as error:
            extra[name] = value
            notes.append(str(error))
        else:
            kept[name] = value
    # NaN is legal in these tools' JSON and not in ours.
    extra = json.loads(json.dumps(extra, default=str), parse_constant=str)
    return Recipe(**kept, extra=extra, notes=tuple(notes))


def _json(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


# The A1111 text comes last: several tools write it beside their own, fuller data.
_READERS: tuple[tuple[str, Callable[[dict[str, str]], tuple[str, Recipe | None, list[str]] | None]], ...] = (
    ("diffgen", _diffgen),
    ("InvokeAI", _invoke),
    ("SwarmUI", _swarm),
    ("NovelAI", _novelai),
    ("ComfyUI", _comfyui),
    ("AUTOMATIC1111", _a1111),
)
