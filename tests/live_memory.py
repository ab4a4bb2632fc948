"""How many bytes of tensors are alive at once, counted exactly: no allocator, no other process, no noise."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Within it, `peak` is the most bytes that tensors made in it held at one time, each storage counted once."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.owners: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_storage(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        for tensor in tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            key, size = _storage(tensor), tensor.untyped_storage().nbytes()
            if key in self.owners:
                self.owners[key] += 1
            elif key not in given:
                self.owners[key] = 1
                self.live += size
                self.peak = max(self.peak, self.live)
            else:
                continue  # of something made before
            weakref.finalize(tensor, self._let_go, key, size)
        return out

    def _let_go(self, key: int, size: int) -> None:
        self.owners[key] -= 1
        if not self.owners[key]:
            del self.owners[key]
            self.live -= size


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata
