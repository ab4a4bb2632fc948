"""Files in the original layouts, all in one or apart, put together into the parts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from diffgen.checkpoints.assemble import OPTIONS, Candidate, Gathered, fill_slot
from diffgen.checkpoints.blueprint import Blueprint, Slot, blueprint, carried, from_folder
from diffgen.checkpoints.folder import Processor, read_component
from diffgen.checkpoints.headers import Header
from diffgen.checkpoints.recognise import Part, prediction_of, recognise, refusal
from diffgen.checkpoints.report import unclaimed
from diffgen.checkpoints.tensors import open_source
from diffgen.checkpoints.tokenizers import CARRIED, sentencepiece_tokenizer, tokenizer_at
from diffgen.errors import CheckpointError, unknown
from diffgen.families.common import Parts


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a user gives to make one model.

    Attributes:
        main: the file that holds the denoiser, and maybe the rest.
        denoiser_2: the second expert's file, where a model has two.
        vae, text_encoder, image_encoder: files or folders that hold them; they count before what `main` holds.
        tokenizer: a folder, spiece.model or tokenizer.json.
        config: a diffusers folder with the configurations, for sizes that were never published.
        kind: which model it is, where the tensors alone do not tell.
        prediction: "epsilon" or "v_prediction".
    """

    main: Path
    denoiser_2: Path | None = None
    vae: Path | None = None
    text_encoder: Sequence[Path] = ()
    image_encoder: Path | None = None
    tokenizer: Path | None = None
    config: Path | None = None
    kind: str | None = None
    prediction: str | None = None
    allow_pickle: bool = False

    @property
    def sizes(self) -> bool:
        """Whether files must have the published sizes: no folder says otherwise."""
        return self.config is None and self.main.is_file()

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file or folder whose weights belong to the model."""
        given = (self.main, self.denoiser_2, self.vae, *self.text_encoder, self.image_encoder)
        return tuple(path for path in given if path is not None)


def read_files(files: Files, dtype: torch.dtype, device: torch.device) -> tuple[Parts, tuple[str, ...]]:
    """The parts of a model whose denoiser is in a single file, and notes on what was left over.

    Raises:
        CheckpointError: a file is damaged or unknown, or something that the model needs is in none of them.
    """
    plan, candidates = opened(files)
    gathered = Gathered()
    for slot in plan.slots:
        if not fill_slot(slot, candidates, gathered, dtype, device) and not slot.optional:
            raise missing(slot, plan, candidates)
    add_plain(plan, files, candidates, gathered)
    _note_rest(files.main, candidates, gathered)
    index = {**plan.index, "_class_name": plan.pipeline}
    parts = Parts(origin=files.main, index=index, components=gathered.components, configs={"scheduler": plan.scheduler})
    return parts, gathered.notes


def opened(files: Files) -> tuple[Blueprint, list[Candidate]]:
    """What the model consists of, and everything that may be part of it, what was named for a purpose first.

    Raises:
        CheckpointError: a file is damaged or unknown, or a choice that was made does not fit it.
    """
    main = open_source(files.main, allow_pickle=files.allow_pickle)
    found = recognise(main.header, sizes=files.sizes)
    if not found or found[0].row.role != "denoiser":
        raise refusal(main.header, found)
    plan = plan_of(files, main.header, found[0])
    if files.denoiser_2 and not any(slot.like for slot in plan.slots):
        raise CheckpointError(f"{plan.name} has one denoiser; denoiser_2={files.denoiser_2} is for models with two")
    held = [Candidate(role=part.row.role, place=files.main, source=main, part=part) for part in found]
    return plan, _given(files) + held


def read_given(files: Files, dtype: torch.dtype, device: torch.device) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What replaces parts of a diffusers folder (`files.main`), by the name of the component, and notes.

    Raises:
        CheckpointError: a file is damaged or unknown, or fits no place in the folder.
    """
    for name in ("config", "kind", "denoiser_2", "tokenizer"):
        if getattr(files, name) is not None:
            raise CheckpointError(f"{name}={getattr(files, name)} goes with a single file; {files.main} is a folder")
    given, gathered = _given(files), Gathered()
    if not given:
        return {}, ()
    for slot in from_folder(files.main).slots:
        fill_slot(slot, given, gathered, dtype, device, whole=slot.role == "text")
    for item in given:
        if not any(_same_role(name, item.role) for name in gathered.components):
            raise CheckpointError(f"{item.place} fits no {item.role} part of {files.main}")
    return gathered.components, gathered.notes


def _same_role(name: str, role: str) -> bool:
    return Slot(name=name, kind="", config={}).role == role


def missing(slot: Slot, plan: Blueprint, candidates: Sequence[Candidate]) -> CheckpointError:
    held = ", ".join(sorted({item.part.row.title for item in candidates if item.part}))
    wanted = slot.part or slot.kind.partition(".")[2]
    option = OPTIONS[slot.role]
    return CheckpointError(
        f"{plan.name} also needs a {slot.name} ({wanted}); the files given hold {held}. Give it with {option}"
    )


def plan_of(files: Files, header: Header, part: Part) -> Blueprint:
    if files.config is not None:
        plan = from_folder(files.config)
        if files.prediction:
            plan = replace(plan, scheduler={**plan.scheduler, "prediction_type": files.prediction})
        return plan
    row = part.row
    if row.layout is None:
        raise CheckpointError(f"{files.main} is {row.title}, which diffgen recognises but cannot load from one file")
    name = files.kind or (row.also[0] if files.denoiser_2 and row.also else row.name)  # two experts share a shape
    if name not in (row.name, *row.also):
        raise unknown(f"kind of {row.title}", name, (row.name, *row.also))
    if name not in carried():
        raise CheckpointError(
            f"{files.main} is {row.title}, whose configuration diffgen does not carry; give a diffusers folder of that "
            "model with config=... (--config)"
        )
    told = prediction_of(header)
    if told and files.prediction and told != files.prediction:
        raise CheckpointError(f"{files.main} says of itself that it predicts {told}; {files.prediction} was asked for")
    return blueprint(name, prediction=files.prediction or told, zero_snr="ztsnr" in header.entries)


def _given(files: Files) -> list[Candidate]:
    """What was given for a purpose: it counts before what the main file holds."""
    given: list[Candidate] = []
    wanted = [("vae", files.vae), *(("text", path) for path in files.text_encoder), ("vision", files.image_encoder),
              ("denoiser_2", files.denoiser_2)]  # fmt: skip
    for role, path in wanted:
        if path is None:
            continue
        if not path.exists():
            raise CheckpointError(f"there is nothing at {path}")
        if path.is_dir():
            given.append(Candidate(role=role, place=path))
            continue
        source = open_source(path, allow_pickle=files.allow_pickle)
        parts = recognise(source.header, sizes=files.sizes)
        kept = [part for part in parts if part.row.role == role.removesuffix("_2")]
        if not parts:
            raise refusal(source.header)
        if not kept:
            held = ", ".join(part.row.title for part in parts)
            raise CheckpointError(f"{path} holds {held}, not what it was given for ({role})")
        given += [Candidate(role=role, place=path, source=source, part=part) for part in kept]
    return given


def add_plain(plan: Blueprint, files: Files, candidates: Sequence[Candidate], gathered: Gathered) -> None:
    """Tokenizers and processors: from the folder that gave the configurations, or from what is carried."""
    if plan.folder is not None:
        for name, entry in plan.index.items():
            plain = isinstance(entry, list) and None not in entry and not name.endswith(("scheduler", "checker"))
            if plain and name not in {slot.name for slot in plan.slots} and (plan.folder / name).is_dir():
                place = plan.folder / name
                gathered.components[name] = read_component(
                    entry[0], entry[1], place, torch.float32, torch.device("cpu")
                )
        return
    for name, spec in plan.tokenizers.items():
        if spec.get("for") and spec["for"] not in gathered.components:
            continue
        if spec["carried"] is None:
            texts = [item.source for item in candidates if item.role == "text" and item.source is not None]
            places = [files.tokenizer] if files.tokenizer else []
            gathered.components[name] = sentencepiece_tokenizer(spec, places, texts)
        elif files.tokenizer and len(plan.tokenizers) == 1:
            gathered.components[name] = tokenizer_at(files.tokenizer, {})
        else:
            options = {key: value for key, value in spec.items() if key == "pad"}
            gathered.components[name] = CARRIED[spec["carried"]](**options)
    for name, spec in plan.others.items():
        library, _, kind = spec.get("bundle", spec.get("class", "")).partition(".")
        made = getattr(import_module(library), kind)(**spec["config"])
        if "bundle" in spec:
            made = Processor(tokenizer=gathered.components["tokenizer"], image_processor=made)
        gathered.components[name] = made


def _note_rest(path: Path, candidates: Sequence[Candidate], gathered: Gathered) -> None:
    """Tensors of the main file that belong to nothing recognised in it."""
    own = [item for item in candidates if item.place == path and item.source and item.part]
    header = own[0].source.header if own and own[0].source else None
    rest = unclaimed(header.entries, tuple(item.part.prefix for item in own if item.part)) if header else ()
    if rest:
        gathered.unused.setdefault(path, []).extend(rest)
