"""One flat vector for all trainable weights: bfloat16 to compute with, float32 to learn with.

Adam's updates are often smaller than bfloat16's spacing, so a bfloat16 network needs float32 masters. Kept as
one vector, the optimizer, the average, clipping and the exchange between processes are each one operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class FlatWeights:
    """Moves a module's trainable parameters into one vector and their gradients into another.

    Args:
        module: its parameters become views; frozen ones are only rounded to `dtype`.
        dtype: what the module computes with.

    Attributes:
        master: float32 [n], the weights that learn.
        average: float32 [n], their exponential moving average.
        work, grad: `dtype` [n], what the module's parameters and their gradients view.
    """

    def __init__(self, module: nn.Module, *, dtype: torch.dtype = torch.float32) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self.master = torch.cat([p.detach().float().flatten() for p in self._parameters])
        self.average = self.master.clone()
        self.work = self.master.to(dtype).clone()
        self.grad = torch.zeros_like(self.work)
        self._place(self.work, self.grad)
        for p in module.parameters():
            if not p.requires_grad:
                p.data = p.data.to(dtype)

    def _place(self, work: Tensor, grad: Tensor | None) -> None:
        start = 0
        for p in self._parameters:
            end = start + p.numel()
            p.data = work[start:end].view(p.shape)
            p.grad = None if grad is None else grad[start:end].view(p.shape)
            start = end

    def views(self, vector: Tensor) -> list[Tensor]:
        """A vector [n] as the parameters' shapes, in their order, sharing its memory."""
        sizes = [p.numel() for p in self._parameters]
        return [part.view(p.shape) for part, p in zip(vector.split(sizes), self._parameters, strict=True)]

    def push(self) -> None:
        """Round the masters into the working copy."""
        self.work.copy_(self.master)

    def average_in(self, decay: float) -> None:
        """average <- decay * average + (1 - decay) * master."""
        self.average.lerp_(self.master, 1 - decay)

    @contextmanager
    def averaged(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """Inside, the module holds the averaged weights (in `dtype`, default the working one); after, its own."""
        self._place(self.average.to(dtype or self.work.dtype), None)
        try:
            yield
        finally:
            self._place(self.work, self.grad)

    def state(self) -> dict[str, Tensor]:
        return {"master": self.master, "average": self.average}

    def load(self, state: dict[str, Tensor]) -> None:
        self.master.copy_(state["master"])
        self.average.copy_(state["average"])
        self.push()


def average_decay(step: int, longest: float) -> float:
    """EMA decay at a step: short at first so that the random start is forgotten, then `longest`.

    >>> average_decay(0, 0.999), average_decay(10_000_000, 0.999)
    (0.1, 0.999)
    """
    return min(longest, (1 + step) / (10 + step))
