"""What a model consists of: which networks, with which configurations, beside which scheduler.

Read from the files under `configs/`, which are carried so that a single file needs no network, or from a diffusers
folder that the user names. Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffgen.checkpoints.headers import Entry
from diffgen.checkpoints.table import COUNTS
from diffgen.errors import CheckpointError

FOLDER = Path(__file__).parent / "configs"
_ROLES = {"unet": "denoiser", "transformer": "denoiser", "vae": "vae", "image_encoder": "vision"}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A network that a model needs.

    Attributes:
        name: as in a diffusers folder: "unet", "text_encoder_2" ...
        kind: its class, "library.Class".
        part: the row of the table that fits; None where any of the role may.
        optional: whether the model runs without it.
        identity: a square weight that stands for "unchanged" where a file leaves it out.
        unread: a weight that is never read here, which a file may leave out.
        variants: changes of the configuration that a tensor of the file tells.
        like: the slot whose kind of file it takes, where a model has two.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    part: str | None = None
    optional: bool = False
    identity: str | None = None
    unread: str | None = None
    variants: Sequence[Mapping[str, Any]] = ()
    like: str | None = None

    @property
    def role(self) -> str:
        """The role of the files that fit."""
        return _ROLES.get(self.like or self.name, "text")


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A whole model. `tokenizers` and `others` say how to make what has no weights; `folder` holds them already."""

    name: str
    pipeline: str
    slots: tuple[Slot, ...]
    tokenizers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def carried() -> tuple[str, ...]:
    """The names of all models whose configuration is carried."""
    return tuple(sorted(file.stem for file in (FOLDER / "models").glob("*.json")))


def blueprint(name: str, *, prediction: str | None = None, zero_snr: bool = False) -> Blueprint:
    """The carried model of that name.

    Args:
        prediction: "epsilon" or "v_prediction", where it is known; some models were published as both.
        zero_snr: whether the noise schedule ends at pure noise.
    Raises:
        CheckpointError: none is carried, or the prediction has to be told and was not.
    """
    if name not in carried():
        raise CheckpointError(f"diffgen carries no configuration for {name}; carried: {', '.join(carried())}")
    model = _model(name)
    if prediction is None and model.get("asks") == "prediction":
        raise CheckpointError(
            f"{name} was published both ways and this file does not say which it is: give prediction='v_prediction' "
            "(768 pixels) or prediction='epsilon' (512 pixels, --prediction)"
        )
    when = model.get("when", {})
    for told in [prediction] * bool(prediction) + ["zero_snr"] * zero_snr:
        model = _merge(model, when.get(told, {"scheduler": {"prediction_type": told}} if told == prediction else {}))
    parts = model["parts"]
    slots = [_slot(key, value, parts) for key, value in parts.items() if _is_network(key)]
    return Blueprint(
        name=name, pipeline=model["pipeline"], slots=tuple(slots), scheduler=model["scheduler"],
        tokenizers={key: value for key, value in parts.items() if key.startswith("tokenizer")},
        others={key: value for key, value in parts.items() if key.endswith("processor")}, index=model.get("index", {}),
    )  # fmt: skip


def _is_network(key: str) -> bool:
    return not key.startswith("tokenizer") and not key.endswith("processor")


def _model(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "models" / f"{name}.json").read_text(encoding="utf-8"))
    return _merge(_model(found.pop("like")), found) if "like" in found else found


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _slot(name: str, spec: Mapping[str, Any], parts: Mapping[str, Any]) -> Slot:
    if like := spec.get("same_as"):
        return replace(_slot(like, parts[like], parts), name=name, like=like)
    if use := spec.get("use"):
        shared = json.loads((FOLDER / "parts" / f"{use}.json").read_text(encoding="utf-8"))
        spec = _merge(shared, spec)
    return Slot(
        name=name, kind=spec["class"], config=spec.get("config", {}), part=spec.get("use"),
        optional=bool(spec.get("optional")), identity=spec.get("identity"), unread=spec.get("unread"),
        variants=spec.get("variants", ()),
    )  # fmt: skip


def part_slot(name: str) -> Slot | None:
    """A part of models whose configuration is carried apart from them, such as "clip-l"; None where it is not."""
    return _slot(name, {"use": name}, {}) if (FOLDER / "parts" / f"{name}.json").is_file() else None


def from_folder(folder: Path) -> Blueprint:
    """The model that a diffusers folder describes; its tokenizers and processors are taken from there too.

    Raises:
        CheckpointError: the folder or a configuration in it is missing.
    """
    index = _json(folder / "model_index.json")
    slots, scheduler = [], {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or None in entry or name == "safety_checker":
            continue
        if name.endswith("scheduler"):
            scheduler = {"_class_name": entry[1], **_json(folder / name / "scheduler_config.json")}
        elif (folder / name / "config.json").is_file():
            like = "transformer" if name == "transformer_2" else None
            slots.append(Slot(name=name, kind=".".join(entry), config=_json(folder / name / "config.json"), like=like))
    pipeline = str(index.get("_class_name"))
    return Blueprint(name=folder.name, pipeline=pipeline, slots=tuple(slots), scheduler=scheduler, index=index,
                     folder=folder)  # fmt: skip


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; a diffusers folder has it") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read as JSON: {error}") from None
    return dict(found)


def adjusted(config: Mapping[str, Any], slot: Slot, layout: str, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The configuration with what a file's own tensors tell: how many layers it has, and which variant it is.

    Args:
        entries: the network's tensors by their names in the file, without prefix.
    """
    told = dict(config)
    for variant in slot.variants:
        entry = entries.get(variant["tensor"])
        if entry is not None and variant.get("columns") in (None, entry.shape[1]):
            told.update(variant["config"])
            break
    for key, name in COUNTS.get(layout, {}).items():
        number = re.compile(re.escape(name) + r"\.(\d+)\.")
        found = [int(match[1]) for key in entries if (match := number.match(key))]
        if found:
            told[key] = max(found) + 1
    return told
