"""The parameters text that A1111 writes into its pictures, and that most tools read.

    a red apple,
    on a table
    Negative prompt: blurry
    Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3.0, Seed: 7, Size: 128x128, ...

The prompt has no quoting, so a prompt with a line that begins "Negative prompt:" cannot be told apart; the
JSON beside it is exact. A value with a comma, a colon or a line break is written as a JSON string.
Web UI 1.9 split the schedule from the sampler's name; older files say "DPM++ 2M Karras".
Source: the web UI's documented behaviour (github.com/AUTOMATIC1111/stable-diffusion-webui).
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from diffgen.foreign.names import SAMPLERS, SCHEDULES, SETTINGS, from_a1111, schedule_from_a1111

if TYPE_CHECKING:
    from diffgen.recipe import Recipe

_OWN = ("Steps", "Sampler", "Schedule type", "CFG scale", "Seed", "Size", "Model hash", "Model", "Version")
_SETTING_OF = {shown: name for name, shown in SETTINGS.items()}
_NEGATIVE = "Negative prompt:"
_STRING = json.JSONDecoder(strict=False)


def to_text(recipe: Recipe) -> str:
    """The parameters text of a recipe. Fields that are None are left out; lone surrogates become "?"."""
    lines = [recipe.prompt] if recipe.prompt else []
    if recipe.negative:
        lines.append(f"{_NEGATIVE} {recipe.negative}")
    values = ", ".join(f"{key}: {_quote(value)}" for key, value in _pairs(recipe).items())
    if values:
        lines.append(values)
    return "\n".join(lines).encode("utf-8", "replace").decode("utf-8")


def from_text(text: str) -> Recipe:
    """The recipe a parameters text describes; any text is accepted, and what is not understood is kept.

    Fields without a place of their own (hires fix, ControlNet, LoRA hashes ...) go to `extra` under the
    names they had. A number that cannot be read is kept there too and named in `notes`.
    """
    from diffgen.recipe import Recipe

    lines = text.replace("\r\n", "\n").replace("\0", "").rstrip("\n").split("\n")
    at = _values_line(lines)
    values = split_values(lines[at]) if at is not None else {}
    prompts, after = (lines, []) if at is None else (lines[:at], lines[at + 1 :])
    start = next((i for i, line in enumerate(prompts) if line.lstrip().startswith(_NEGATIVE)), len(prompts))
    negative = "\n".join(prompts[start:]).lstrip() if start < len(prompts) else ""
    negative = negative.removeprefix(_NEGATIVE).removeprefix(" ")
    if after:
        values["after"] = "\n".join(after)
    return Recipe(prompt="\n".join(prompts[:start]), negative=negative, **_fields(values))


def split_values(line: str) -> dict[str, str]:
    """{"Steps": "25", ...} from the last line, quoted values unquoted; takes time linear in its length."""
    found: dict[str, str] = {}
    last, tail, at = None, None, 0
    while at < len(line):
        comma = line.find(",", at)
        comma = len(line) if comma < 0 else comma
        colon = line.find(":", at, comma)
        if colon < 0:
            # A comma inside an unquoted value, which other tools write ("Model: a, b").
            tail = at if tail is None else tail
            at = comma + 1
            continue
        if last is not None and tail is not None:
            found[last] += "," + line[tail : at - 1]
        last, tail = line[at:colon].strip(), None
        found[last], end = _value(line, _skip_space(line, colon + 1), comma)
        at = end + 1
    if last is not None and tail is not None and line[tail:].strip():
        found[last] += "," + line[tail:].rstrip()
    return found


def _pairs(recipe: Recipe) -> dict[str, Any]:
    size = None if recipe.width is None else f"{recipe.width}x{recipe.height}"
    version = recipe.versions.get("diffgen")
    pairs = {
        "Steps": recipe.steps,
        "Sampler": SAMPLERS.get(recipe.sampler or "", recipe.sampler),
        "Schedule type": SCHEDULES.get(recipe.schedule or "", recipe.schedule),
        "CFG scale": recipe.guidance,
        "Seed": recipe.seed,
        "Size": size,
        "Model hash": recipe.model_hash,
        "Model": recipe.model,
    }
    more = {SETTINGS.get(key, key): value for key, value in recipe.settings.items()} | dict(recipe.extra)
    for key, value in more.items():
        if key not in pairs and re.fullmatch(r"\w[\w \-/]+", key) and isinstance(value, (str, int, float)):
            pairs[key] = value
    pairs["Version"] = f"diffgen {version}" if version else recipe.versions.get("Version")
    return {key: value for key, value in pairs.items() if value not in (None, "")}


def _quote(value: Any) -> str:
    text = str(value)
    if re.search(r'[,:\n\r]|^["\s]|\s$', text):
        return json.dumps(text, ensure_ascii=False)
    return text


def _value(line: str, begin: int, comma: int) -> tuple[str, int]:
    """The value that starts at `begin`, and the index of the comma (or end of line) behind it."""
    if line.startswith(('"', "{", "["), begin):
        # Tables and lists stand there unquoted ("Hashes: {...}"), commas and all; they stay text.
        try:
            value, end = _STRING.raw_decode(line, begin)
        except (ValueError, RecursionError):
            return line[begin:comma].strip(), comma
        after = _skip_space(line, end)
        if after == len(line) or line[after] == ",":
            return value if isinstance(value, str) else line[begin:end], after
    return line[begin:comma].strip(), comma


def _skip_space(line: str, at: int) -> int:
    while at < len(line) and line[at].isspace():
        at += 1
    return at


def _values_line(lines: list[str]) -> int | None:
    """Which line holds the values: the last one, or an earlier one when an extension wrote lines below it."""
    for at in range(len(lines) - 1, -1, -1):
        values = split_values(lines[at])
        known = sum(key in _OWN for key in values)
        opens = next(iter(values), "") == "Steps" and to_number(values["Steps"]) is not None
        if opens or known >= 2 or (known and len(values) >= 3 and at == len(lines) - 1):
            return at
    return None


def _fields(values: dict[str, str]) -> dict[str, Any]:
    """Values by A1111's names -> fields of a Recipe; takes from `values` what it uses."""
    fields: dict[str, Any] = {"settings": {}, "versions": {}}
    notes = []
    for key, name, kind in (("Steps", "steps", int), ("Seed", "seed", int), ("CFG scale", "guidance", float)):
        number = to_number(values.get(key, ""))
        if key in values and (number is None or (name == "steps" and number < 0)):
            notes.append(f"{key} could not be read: {values[key]!r}")
        elif number is not None:
            fields[name] = kind(number)
            del values[key]
    distilled = to_number(values.get("Distilled CFG Scale", ""))
    if distilled is not None:
        # Forge, for models that take the scale as an input: "CFG scale" is then guidance on top of it.
        if fields.get("guidance", 1) != 1:
            fields["settings"]["true_cfg"] = fields["guidance"]
        fields["guidance"] = float(distilled)
        del values["Distilled CFG Scale"]
    size = re.fullmatch(r"(\d{1,6})x(\d{1,6})", values.get("Size", ""))
    if size and int(size[1]) and int(size[2]):
        fields["width"], fields["height"] = int(size[1]), int(size[2])
        del values["Size"]
    if "Sampler" in values:
        fields["sampler"], fields["schedule"] = from_a1111(values.pop("Sampler"))
    if values.get("Schedule type"):
        fields["schedule"] = schedule_from_a1111(values.pop("Schedule type"), fields.get("sampler", ""))
    for key, name in (("Model", "model"), ("Model hash", "model_hash")):
        if key in values:
            fields[name] = values.pop(key)
    if "Version" in values:
        version = values.pop("Version")
        ours = version.startswith("diffgen ")
        fields["versions"]["diffgen" if ours else "Version"] = version.removeprefix("diffgen ")
    for key in list(values):
        # A1111's own names begin with a capital: a key in lower case is one of our settings.
        if key in _SETTING_OF or (key[:1].islower() and key != "after"):
            fields["settings"][_SETTING_OF.get(key, key)] = _plain(values.pop(key))
    if "strength" in fields["settings"]:
        fields["task"] = "image_to_image"
    return {**fields, "extra": values, "notes": notes}


def to_number(text: str) -> int | float | None:
    """The finite number a text holds, or None. At most 40 digits, since Python refuses huge integers."""
    if re.fullmatch(r"[+-]?\d{1,40}", text):
        return int(text)
    if re.fullmatch(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?", text):
        return float(text) if math.isfinite(float(text)) else None
    return None


def _plain(text: str) -> Any:
    """The text as the number or truth value it spells, else as it is."""
    if text in ("True", "False"):
        return text == "True"
    number = to_number(text)
    return text if number is None else number
