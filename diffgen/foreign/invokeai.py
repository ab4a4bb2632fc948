"""The three forms in which InvokeAI wrote its settings into a PNG, newest first.

`invokeai_metadata` (since 3.0): one flat JSON table. `sd-metadata` (2.x): JSON with a nested `image`.
`Dream` (1.x): the command line that was typed. Source: InvokeAI's documented metadata fields.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from diffgen.foreign.names import name_samplers, take
from diffgen.foreign.parameters import to_number


def read_invokeai(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """Fields of a Recipe from a PNG's texts; None when InvokeAI wrote none of them.

    Raises ValueError, TypeError, KeyError or AttributeError for damaged data.
    """
    if "invokeai_metadata" in texts:
        return _flat(json.loads(texts["invokeai_metadata"]))
    if "sd-metadata" in texts:
        return _nested(json.loads(texts["sd-metadata"]))
    return _command(texts["Dream"]) if "Dream" in texts else None


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    names = {"positive_prompt": "prompt", "negative_prompt": "negative", "cfg_scale": "guidance"}
    fields = take(data, names | {name: name for name in ("seed", "steps", "width", "height")})
    name_samplers(fields, data.pop("scheduler", None), None)
    model = data.pop("model", None)
    if isinstance(model, dict):
        fields["model"] = model.get("name") or model.get("model_name")
        fields["model_hash"] = model.get("hash")
    elif isinstance(model, str):
        fields["model"] = model
    mode = str(data.get("generation_mode") or "")
    fields["task"] = (
        "image_to_image" if "img2img" in mode else "inpaint" if "paint" in mode else "text_to_image"
    )
    fields["settings"] = take(
        data,
        {"strength": "strength", "clip_skip": "clip_skip", "cfg_rescale_multiplier": "guidance_rescale"},
    )
    if isinstance(fields["settings"].get("clip_skip"), int):
        # InvokeAI counts the layers left out, A1111 and we the layer that is used, from the end.
        fields["settings"]["clip_skip"] += 1
    fields["versions"] = take(data, {"app_version": "InvokeAI"})
    return {**fields, "extra": data}


def _nested(data: dict[str, Any]) -> dict[str, Any]:
    image = data.pop("image")
    prompt = image.pop("prompt", "")
    if isinstance(prompt, list):
        prompt = " ".join(str(part.get("prompt", "")) for part in prompt)
    fields = _split_brackets(str(prompt))
    fields |= take(image, {"cfg_scale": "guidance"} | {n: n for n in ("seed", "steps", "width", "height")})
    name_samplers(fields, image.pop("sampler", None), None)
    fields |= take(data, {"model_weights": "model", "model_hash": "model_hash"})
    fields["versions"] = take(data, {"app_version": "InvokeAI"})
    return {**fields, "extra": {**data, **image}}


def _command(text: str) -> dict[str, Any]:
    """`"a prompt [negative]" -s 50 -S 123 -W 512 -H 512 -C 7.5 -A k_lms`"""
    words = shlex.split(text)
    fields = _split_brackets(words[0]) if words else {}
    names = {"s": "steps", "S": "seed", "W": "width", "H": "height", "C": "guidance"}
    extra: dict[str, Any] = {}
    flags = [match for word in words[1:] if (match := re.fullmatch(r"-([a-zA-Z])(.+)?", word))]
    for flag in flags:
        at = words.index(flag[0])
        value = flag[2] or (words[at + 1] if at + 1 < len(words) else "")
        if flag[1] == "A":
            name_samplers(fields, value, None)
        elif flag[1] in names:
            fields[names[flag[1]]] = to_number(value)
        else:
            extra[flag[1]] = value
    return {**fields, "extra": extra}


def _split_brackets(prompt: str) -> dict[str, Any]:
    """Old InvokeAI prompts hold the negative in [square brackets]."""
    negative = ", ".join(re.findall(r"\[([^\[\]]*)\]", prompt))
    return {"prompt": re.sub(r"\[[^\[\]]*\]", "", prompt).strip(), "negative": negative}
