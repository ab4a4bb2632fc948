"""One layer of a LoRA file with its place in a network, and what it does there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.adapters.files import Contents
from diffgen.adapters.formulas import decomposed, one_number_a_row, rank_of, weight_change
from diffgen.adapters.keys import Group
from diffgen.adapters.names import Piece

# The bias of peft's second matrix is scaled like the rest of its layer; a plain difference is not.
BIASES = ("bias", "diff_b")


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One layer of a file, with its place in a network.

    Attributes:
        contents, group: the file and the tensors in it.
        pieces: where its rows go.
        shape: of the whole change, [rows, ...].
        bias: whether this is the change of a bias.
    """

    contents: Contents
    group: Group
    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    bias: bool = False

    @property
    def keys(self) -> dict[str, str]:
        """What a tensor is -> its key, of the tensors that this change is made of."""
        mine = {role: key for role, key in self.group.keys.items() if (role in BIASES) == self.bias}
        return {role: key for role, key in mine.items() if role != "alpha"}

    @property
    def needs_weight(self) -> bool:
        """Whether the change depends on the weight itself, as DoRA's does."""
        return bool({"dora_scale", "magnitude"} & set(self.keys))

    def read(self, device: torch.device) -> dict[str, Tensor]:
        """The tensors by what they are, float32."""
        return {role: self.contents.read(key).to(device, torch.float32) for role, key in self.keys.items()}

    def scale(self) -> float:
        """alpha / rank; 1 where neither the layer nor the file's metadata states an alpha."""
        if "diff_b" in self.keys:
            return 1.0
        rank = rank_of({role: self.contents.shapes[key] for role, key in self.group.keys.items()})
        if "alpha" in self.group.keys and rank is not None:
            return float(self.contents.read(self.group.keys["alpha"])) / rank
        return 1.0 if self.group.alpha is None or rank is None else self.group.alpha

    def change(self, device: torch.device, weight: Tensor | None = None) -> Tensor:
        """W' - W at strength 1, float32 [rows, ...], for all the pieces together.

        Args:
            weight: the whole W, float32; for a layer that `needs_weight`.
        """
        roles = self.read(device)
        found = next(iter(roles.values())) if self.bias else weight_change(roles)
        assert found is not None, "a layer without a change of weights is not matched"
        found = found.reshape(self.shape) * self.scale()
        if weight is None:
            return found
        shapes = {role: tuple(tensor.shape) for role, tensor in roles.items()}
        magnitude = roles["magnitude"] if "magnitude" in roles else roles["dora_scale"]
        by_row = one_number_a_row(shapes, self.shape[0])
        return decomposed(weight.reshape(self.shape), found, magnitude, by_row=by_row)

    def factors(self, device: torch.device, weight: Tensor | None = None) -> tuple[Tensor, ...]:
        """Matrices whose product is `change` as [rows, what one row holds]: two thin ones for a LoRA, else one."""
        if set(self.keys) != {"up", "down"}:
            found = self.change(device, weight)
            return (found.reshape(found.shape[0] if found.ndim else 1, -1),)
        roles = self.read(device)
        return roles["up"].flatten(1) * self.scale(), roles["down"].flatten(1)

    def misfit(self) -> str:
        """Why the tensors cannot be this layer's; "" where they can. Computes shapes alone."""
        shapes = {role: self.contents.shapes[key] for role, key in self.keys.items()}
        roles = {role: torch.empty(shape, device="meta") for role, shape in shapes.items()}
        try:
            change = next(iter(roles.values())) if self.bias else weight_change(roles)
        except (RuntimeError, IndexError, ValueError):
            return "its tensors do not fit each other"
        found = tuple(change.shape) if change is not None else ()
        # A 1 x 1 convolution and a linear layer are the same thing, so only the numbers count.
        same = torch.Size(found).numel() == torch.Size(self.shape).numel()
        if not same or (found and self.shape and found[0] != self.shape[0]):
            return f"it is made for a layer of {_times(found)}, and this model's has {_times(self.shape)}"
        if self.needs_weight:
            magnitude = shapes.get("magnitude") or shapes.get("dora_scale") or ()
            by_row = one_number_a_row(shapes, self.shape[0])
            if len(self.shape) < 2 or torch.Size(magnitude).numel() != self.shape[0 if by_row else 1]:
                return "its DoRA magnitudes do not fit the layer"
        return ""

    def acts(self) -> bool:
        """Whether the change is more than zero: none of its factors is zero all over, or it sets magnitudes."""
        return self.needs_weight or all(bool(self.contents.read(key).any()) for key in self.keys.values())


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """What one layer of a file does to one parameter: `factor` times the rows of `piece`."""

    layer: Layer
    piece: Piece
    factor: float


def _times(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "1"
