"""What a weight file is, from its names and shapes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diffgen.checkpoints.headers import Entry, Header
from diffgen.checkpoints.table import ADAPTERS, PREFIXES, TRAINED_FOR, Row, rows
from diffgen.errors import CheckpointError

Entries = Mapping[str, Entry]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A network that was recognised inside a file: its row of the table, and what its names begin with there."""

    row: Row
    prefix: str

    def entries(self, header: Header) -> dict[str, Entry]:
        """Its tensors, by their names without the prefix."""
        return {key[len(self.prefix) :]: entry for key, entry in header.entries.items() if key.startswith(self.prefix)}


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA or one of its kin: the kinds of names it has, and the model it seems to have been trained for."""

    kinds: tuple[str, ...]
    trained_for: str | None


def recognise(header: Header, *, sizes: bool = True) -> tuple[Part, ...]:
    """The networks in a file, the denoiser first; empty where it holds an adapter or nothing known.

    Args:
        sizes: whether shapes count. Without, for networks of unpublished sizes, a row's first tensor alone decides.
    """
    found: list[Part] = []
    for row in rows():
        for prefix in PREFIXES[row.role]:
            taken = {(part.row.role, part.prefix) for part in found}
            single = row.role in {"denoiser", "vae"} and any(part.row.role == row.role for part in found)
            if not single and (row.role, prefix) not in taken and fits(row, prefix, header.entries, sizes):
                found.append(Part(row=row, prefix=prefix))
    return tuple(found)


def fits(row: Row, prefix: str, entries: Entries, sizes: bool = True) -> bool:
    """Whether a file has a row's tensors under a prefix."""
    if any(prefix + name in entries for name in row.lacks):
        return False
    if not sizes:
        return prefix + next(iter(row.marks)) in entries
    return all(
        (entry := entries.get(prefix + name)) is not None and same_shape(shape, entry.shape)
        for name, shape in row.marks.items()
    )


def same_shape(want: tuple[int, ...], got: tuple[int, ...]) -> bool:
    """Whether a shape is as the table asks: () is any, 0 any size."""
    return not want or (len(want) == len(got) and all(a in (0, b) for a, b in zip(want, got, strict=True)))


def adapter(header: Header) -> Adapter | None:
    """What kind of adapter a file holds, if it holds one."""
    kinds = {kind for key in header.entries for end, kind in ADAPTERS.items() if key.endswith(end)}
    if not kinds:
        return None
    names = " ".join(header.entries)
    told = header.metadata.get("modelspec.architecture") or header.metadata.get("ss_base_model_version")
    model = told or next((model for piece, model in TRAINED_FOR.items() if piece in names), None)
    return Adapter(kinds=tuple(sorted(kinds)), trained_for=model)


def is_embedding(header: Header) -> bool:
    """Whether a file may be a textual inversion: one small matrix of a text encoder's width, or two."""
    shapes = [entry.shape for entry in header.entries.values()]
    return 0 < len(shapes) <= 2 and all(len(s) in (1, 2) and s[-1] in (768, 1024, 1280) for s in shapes)


def prediction_of(header: Header) -> str | None:
    """The prediction type that a file itself tells: a marker tensor, or its metadata."""
    if "v_pred" in header.entries:
        return "v_prediction"
    told = header.metadata.get("modelspec.prediction_type", "").lower()
    if told in ("v", "v-prediction", "v_prediction"):
        return "v_prediction"
    if told in ("epsilon", "eps"):
        return "epsilon"
    architecture = header.metadata.get("modelspec.architecture", "").lower()
    return {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}.get(architecture)


def nearest(header: Header, role: str | None = None, count: int = 3) -> tuple[tuple[Row, tuple[str, ...]], ...]:
    """The rows (of a role) that come nearest to a file that fits none, each with what differs, in words."""
    ranked = []
    for row in rows():
        if role not in (None, row.role):
            continue
        prefix = max(PREFIXES[row.role], key=lambda p: sum(p + name in header.entries for name in row.marks))
        present = sum(prefix + name in header.entries for name in row.marks)
        if present:
            wrong = tuple(_differences(row, prefix, header.entries))
            ranked.append((len(wrong), -present, row, wrong))
    ranked.sort(key=lambda item: item[:2])
    return tuple((row, wrong) for _, _, row, wrong in ranked[:count])


def _differences(row: Row, prefix: str, entries: Entries) -> Iterable[str]:
    for name, shape in row.marks.items():
        entry = entries.get(prefix + name)
        if entry is None:
            yield f"{prefix}{name} is not there"
        elif not same_shape(shape, entry.shape):
            wanted = "x".join(str(n) if n else "any" for n in shape)
            yield f"{prefix}{name} is {'x'.join(map(str, entry.shape))} instead of {wanted}"
    for name in row.lacks:
        if prefix + name in entries:
            yield f"{prefix}{name} is there and should not be"


def refusal(header: Header, found: tuple[Part, ...] = ()) -> CheckpointError:
    """Why a file cannot be loaded in which only `found` was recognised, and no denoiser."""
    if found and not nearest(header, "denoiser"):
        held = " and ".join(part.row.title for part in found)
        return CheckpointError(
            f"{header.path} holds {held}, but no denoiser; give the file with the denoiser, and this one beside it "
            "(vae=, text_encoder=)"
        )
    if lora := adapter(header):
        model = f" for {lora.trained_for}" if lora.trained_for else ""
        kinds = ", ".join(lora.kinds)
        return CheckpointError(f"{header.path} is a LoRA ({kinds}){model}, no model; give it as --lora")
    if is_embedding(header):
        return CheckpointError(f"{header.path} is a textual inversion, no model")
    near = nearest(header, "denoiser") or nearest(header)
    if near:
        told = "; ".join(f"{row.title}, but {' and '.join(wrong[:2])}" for row, wrong in near)
        return CheckpointError(f"{header.path} is of no kind that diffgen knows; nearest: {told}")
    names = ", ".join(list(header.entries)[:3]) or "none"
    return CheckpointError(
        f"{header.path} is of no kind that diffgen knows: none of its {len(header.entries)} tensors ({names} ...) is "
        "in the table diffgen/checkpoints/table.py"
    )
