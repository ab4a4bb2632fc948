"""What a network is told besides the latents and the time, and how several such become one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

# A part of the latents along frames, rows and columns: a slice of each, or the indices, which may go round.
Window: TypeAlias = tuple[slice | tuple[int, ...], slice | tuple[int, ...], slice | tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """What the network is told besides the latents and the time. Every tensor has the batch first.

    Two are equal only when they are one object, so that the engine sees at a glance that nothing has changed.

    Attributes:
        text: named text tensors, such as "hidden" [batch, tokens, width], "pooled" [batch, width], "mask". Families
            with the capability "frame_text" may be told frame by frame: all of it then has the frames second.
        concat: latents laid beside `x` along the channels (inpainting, Wan image-to-video).
        reference: latents given as further tokens (instruction editing).
        vision: image-encoder tokens [batch, tokens, width].
        clean: mask [batch, 1, frames, height, width], 1 where the latents are already clean.
        extra: further named tensors a family needs, such as size ids.
        turns: text that takes the place of `text` on the way: (from which part of the walk on, 0..1, the text).
    """

    text: Mapping[str, Tensor] = field(default_factory=dict)
    concat: Tensor | None = None
    reference: tuple[Tensor, ...] = ()
    vision: Tensor | None = None
    clean: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    turns: tuple[tuple[float, Mapping[str, Tensor]], ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """`change` applied to every tensor."""
        turns = tuple((start, _map(text, change)) for start, text in self.turns)
        return Conditioning(**{f.name: _map(getattr(self, f.name), change) for f in _tensors()}, turns=turns)

    def at(self, part: float) -> Conditioning:
        """As it holds at a part of the walk, 0..1 of its steps; itself where nothing turns."""
        if not self.turns:
            return self
        texts = [self.text, *(text for start, text in self.turns if start <= part)]
        return replace(self, text=texts[-1], turns=())

    def rows(self, index: slice | Tensor) -> Conditioning:
        """Some of the batch."""
        return self.map(lambda tensor: tensor[index])

    def repeat(self, count: int) -> Conditioning:
        """The batch `count` times over."""
        return self.map(lambda tensor: tensor.repeat(count, *[1] * (tensor.ndim - 1)))

    @property
    def by_frame(self) -> bool:
        """Whether the text differs from frame to frame."""
        return "hidden" in self.text and self.text["hidden"].ndim == 4

    def within(self, window: Window) -> Conditioning:
        """What belongs to a part of the latents: everything that has frames, rows and columns is cut to it."""

        def part(tensor: Tensor) -> Tensor:
            return cut(tensor, window) if tensor.ndim == 5 else tensor

        parts = {"concat": self.concat, "clean": self.clean, "extra": self.extra}
        text = {k: _cut(v, window[:1], range(1, 2)) for k, v in self.text.items()} if self.by_frame else self.text
        return replace(self, text=text, **{name: _map(value, part) for name, value in parts.items()})

    def joins(self, other: Conditioning) -> bool:
        """Whether both can be stacked into one batch: the same tensors of the same shapes."""
        return _shapes(self) == _shapes(other)

    @staticmethod
    def join(parts: Sequence[Conditioning]) -> Conditioning:
        """One batch of all the parts, in order. Every pair must satisfy `joins`."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in _tensors()}
        return Conditioning(**{name: _join(column) for name, column in columns.items()})


def cut(tensor: Tensor, window: Window | None) -> Tensor:
    """What belongs to a part of the latents of a tensor [batch, channels, frames, height, width]."""
    return tensor if window is None else _cut(tensor, window, range(2, 5))


def _cut(tensor: Tensor, parts: Sequence[slice | tuple[int, ...]], axes: Sequence[int]) -> Tensor:
    """The parts of a tensor along its axes. One that is 1 along an axis holds for all of it."""
    for axis, part in zip(axes, parts, strict=True):
        if tensor.shape[axis] > 1:
            # A list, since a tuple would be one index for each axis.
            index = part if isinstance(part, slice) else list(part)
            tensor = tensor[(slice(None),) * axis + (index,)]
    return tensor


def _tensors() -> list[Field[Any]]:
    """The fields that hold tensors."""
    return [f for f in fields(Conditioning) if f.name != "turns"]


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Mapping):
        return {key: change(tensor) for key, tensor in value.items()}
    if isinstance(value, tuple):
        return tuple(change(tensor) for tensor in value)
    return None if value is None else change(value)


def _shapes(cond: Conditioning) -> list[Any]:
    found: list[Any] = []
    for f in _tensors():
        value = getattr(cond, f.name)
        if isinstance(value, Mapping):
            found.append({key: tensor.shape[1:] for key, tensor in value.items()})
        elif isinstance(value, tuple):
            found.append([tensor.shape[1:] for tensor in value])
        else:
            found.append(None if value is None else value.shape[1:])
    return found


def _join(column: Sequence[Any]) -> Any:
    import torch

    first = column[0]
    if isinstance(first, Mapping):
        return {key: torch.cat([part[key] for part in column]) for key in first}
    if isinstance(first, tuple):
        return tuple(torch.cat(list(parts)) for parts in zip(*column, strict=True))
    return None if first is None else torch.cat(list(column))
