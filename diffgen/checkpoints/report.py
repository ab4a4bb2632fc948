"""What a checkpoint is and what it lacks, told from headers alone: no weights are read, and no torch is imported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from diffgen.checkpoints.fingerprint import fingerprint, known_fingerprint
from diffgen.checkpoints.headers import MARKS, Entry, Header, read_header
from diffgen.checkpoints.manifest import compare
from diffgen.checkpoints.recognise import Part, adapter, is_embedding, nearest, prediction_of, recognise
from diffgen.errors import CheckpointError

# Of training, in old checkpoints: nothing that draws needs them.
TRAINING = (
    "model_ema.", "optimizer", "betas", "alphas_cumprod", "sqrt_", "log_one_minus", "posterior_", "logvar",
    "global_step", "denoiser.sigmas", "v_pred", "ztsnr", "embedding_manager.", "lr_scheduler",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PartReport:
    """One network.

    Attributes:
        name, role, title: of its row in the table; of a component, in a folder.
        place: the prefix of its names in a file, or its files in a folder.
        tensors, values: how many tensors, and how many numbers in them.
        dtypes: numbers in each dtype.
        compared: whether the published network's list is carried; without it the next four say nothing.
        matched: tensors that are there in the right shape.
        missing, unexpected, misshapen: the others.
    """

    name: str
    role: str
    title: str
    place: str
    tensors: int
    values: int
    dtypes: Mapping[str, int]
    compared: bool = False
    matched: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """A checkpoint. `kind` is None where nothing was recognised; `near` then says what comes nearest.

    Attributes:
        size: bytes of all its files.
        unclaimed: tensors that belong to no network that was recognised.
        also: other kinds that the same file may be.
        hash: SHA-256 over the weights, where it was asked for or is known from before.
    """

    path: Path
    format: str
    kind: str | None
    title: str
    size: int
    parts: tuple[PartReport, ...] = ()
    unclaimed: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    near: tuple[str, ...] = ()
    prediction: str | None = None
    hash: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def gaps(self) -> tuple[str, ...]:
        """Everything that strict reading refuses, a sentence each; empty where all is well."""
        found = [] if self.kind else [f"{self.path} is of no kind that diffgen knows"]
        for part in self.parts:
            for what in ("missing", "unexpected", "misshapen"):
                if names := getattr(part, what):
                    found.append(f"{part.title}: {len(names)} {what}, the first is {names[0]}")
        if self.unclaimed:
            found.append(f"{len(self.unclaimed)} tensors belong to nothing known, the first is {self.unclaimed[0]}")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "path": str(self.path), "gaps": list(self.gaps)}

    def json(self) -> str:
        """The report as a JSON object."""
        return json.dumps(self.as_dict(), indent=2)

    def lines(self) -> list[str]:
        """The report for people."""
        told = [f"{self.path.name}: {self.title}", f"  {self.format}, {_bytes(self.size)}"]
        if self.also:
            told.append(f"  the same tensors as: {', '.join(self.also)}; say which with --kind")
        if self.prediction:
            told.append(f"  predicts: {self.prediction}")
        for part in self.parts:
            told += _part_lines(part)
        told += _names("belonging to nothing known", self.unclaimed)
        told += [f"  nearest: {text}" for text in self.near]
        if self.hash:
            told.append(f"  SHA-256: {self.hash}")
        return told


def _part_lines(part: PartReport) -> list[str]:
    kinds = ", ".join(f"{name} {count / part.values:.0%}" if len(part.dtypes) > 1 else name
                      for name, count in part.dtypes.items())  # fmt: skip
    place = f" in {part.place}" if part.place else ""
    lines = [f"  {part.role}: {part.title}{place}: {part.tensors} tensors, {_count(part.values)} weights, {kinds}"]
    if not part.compared:
        return [*lines, "    not compared: no list of its tensors is carried"]
    lines.append(
        f"    {part.matched} matched, {len(part.missing)} missing, {len(part.unexpected)} unexpected, "
        f"{len(part.misshapen)} of another shape"
    )
    for what in ("missing", "unexpected", "misshapen"):
        lines += ["  " + line for line in _names(what, getattr(part, what))]
    return lines


def _names(what: str, names: Sequence[str], most: int = 10) -> list[str]:
    told = [f"  {what}: {name}" for name in names[:most]]
    return told + ([f"  {what}: {len(names) - most} more"] if len(names) > most else [])


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def inspect(path: str | Path, *, hashed: bool = False) -> Report:
    """What a weight file or a diffusers folder holds, from headers alone.

    Args:
        hashed: whether to compute the hash, which reads every byte once; else it is told only where it is known.
    Raises:
        CheckpointError: the path leads nowhere, or a file is damaged, a pickle, or no weight file at all.
    """
    from diffgen.checkpoints.load import find

    _, place = find(path)
    digest = fingerprint(place) if hashed else known_fingerprint(place)
    if place.is_dir():
        from diffgen.checkpoints.report_folder import inspect_folder

        return inspect_folder(place, digest)
    header = read_header(place)
    bare = Report(path=place, format=header.format, kind=None, title="", size=header.size, hash=digest,
                  metadata=header.metadata, prediction=prediction_of(header))  # fmt: skip
    parts = recognise(header)
    if not parts:
        return replace(bare, **_unnamed(header))
    lead = parts[0].row
    title = lead.title + ("" if lead.layout else " (diffgen knows it, but cannot load this kind of file)")
    return replace(bare, kind=lead.name, title=title, parts=tuple(_part(part, header) for part in parts),
                   also=lead.also, unclaimed=_unclaimed(header, parts))  # fmt: skip


def _unnamed(header: Header) -> dict[str, Any]:
    """Of a file in which no network was recognised."""
    if lora := adapter(header):
        model = f" for {lora.trained_for}" if lora.trained_for else ""
        whole = PartReport(name="lora", role="lora", title=", ".join(lora.kinds), place="", **totals(header.entries))
        return {"kind": "lora", "title": f"LoRA ({', '.join(lora.kinds)}){model}", "parts": (whole,)}
    if is_embedding(header):
        return {"kind": "textual-inversion", "title": "textual inversion"}
    near = tuple(f"{row.title}, but {' and '.join(wrong[:3])}" for row, wrong in nearest(header))
    return {"kind": None, "title": "of no kind that diffgen knows", "near": near}


def _part(part: Part, header: Header) -> PartReport:
    entries, row = part.entries(header), part.row
    if part.prefix == "":
        entries = {key: entry for key, entry in entries.items() if not key.startswith(TRAINING)}
    told = compare(row, entries)
    result = {} if told is None else {**asdict(told), "compared": True}
    return PartReport(name=row.name, role=row.role, title=row.title, place=part.prefix, **totals(entries), **result)


def totals(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """How many tensors and numbers, and how many of each dtype."""
    kinds: Counter[str] = Counter()
    for entry in entries.values():
        kinds[entry.dtype] += entry.count
    return {"tensors": len(entries), "values": sum(kinds.values()), "dtypes": dict(kinds.most_common())}


def unclaimed(keys: Iterable[str], prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Names that belong to no network with one of these prefixes, training's own and marks of storage left out."""
    if "" in prefixes:
        return ()
    skipped = (*prefixes, *TRAINING)
    return tuple(key for key in keys if not key.startswith(skipped) and key.rpartition(".")[2] not in MARKS)


def _unclaimed(header: Header, parts: Sequence[Part]) -> tuple[str, ...]:
    return unclaimed(header.entries, tuple(part.prefix for part in parts))


def check(report: Report) -> None:
    """Strict reading: any gap is an error.

    Raises:
        CheckpointError: something is missing, unexpected, of another shape or unknown.
    """
    if report.gaps:
        raise CheckpointError(f"{report.path}: {'; '.join(report.gaps)}")
