"""The optimizers of the loop, over the flat weights."""

from __future__ import annotations

from typing import Any

import torch

from diffgen.errors import UsageError
from diffgen.train.weights import FlatWeights

OPTIMIZERS = ("adamw", "muon")


class Optimizer:
    """AdamW for everything, or Muon for matrices and AdamW for the rest; one learning rate and weight decay for both.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) makes a matrix's update orthogonal, so that
    rare directions learn as fast as common ones. Convolutions count as matrices [out, in * height * width]. Updates
    are scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982), so a rate that suits AdamW suits Muon.

    Args:
        kind: one of `OPTIMIZERS`.
        weights: its masters are what learns.

    Raises:
        UsageError: unknown kind.
    """

    def __init__(self, kind: str, weights: FlatWeights, *, lr: float, beta2: float, weight_decay: float) -> None:
        if kind not in OPTIMIZERS:
            raise UsageError(f"optimizer {kind!r} is not one of {', '.join(OPTIMIZERS)}")
        self.gradient = torch.zeros_like(weights.master)
        matrices: list[torch.Tensor] = []
        rest = [weights.master]
        weights.master.grad = self.gradient
        if kind == "muon":
            pairs = list(zip(weights.views(weights.master), weights.views(self.gradient), strict=True))
            rest = []
            for value, gradient in pairs:
                # The narrow ends of a network (from and to the latents) are not matrices in Muon's sense.
                square = value.ndim > 1 and min(value.shape[0], value[0].numel()) >= 32
                shaped = value.flatten(1) if square else value
                shaped.grad = gradient.flatten(1) if square else gradient
                (matrices if square else rest).append(shaped)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, beta2), weight_decay=weight_decay, fused=True)
        ]
        if matrices:
            self.parts.append(
                torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, gradient: torch.Tensor, lr: float) -> None:
        """Change the masters by one step.

        Args:
            gradient: float32 [n], like the masters.
            lr: this step's learning rate.
        """
        self.gradient.copy_(gradient)
        for part in self.parts:
            part.param_groups[0]["lr"] = lr
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """
        Raises:
            UsageError: the state is another optimizer's.
        """
        if len(states) != len(self.parts):
            raise UsageError("the checkpoint was made with another optimizer; start a new run from its weights instead")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
