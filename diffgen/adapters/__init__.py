"""Adapters: files that change a model for a run and leave no trace. LoRA and its relatives, textual inversion.

    adapters = [parse("style.safetensors:0.8"), Adapter(Path("face.safetensors"), blocks={"up_blocks.1": 0.5})]
    applied = apply(adapters, model.family)

`apply` gives patches (`diffgen.contracts.Patch`) with an exact inverse, and a report on every file: how many of its
keys took effect, and which did not. Nothing here imports torch before `apply` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffgen.adapters.adapter import Adapter, as_adapters, find, from_tags, parse, sha256

if TYPE_CHECKING:
    from diffgen.adapters.applied import Applied as Applied
    from diffgen.adapters.applied import Report as Report
    from diffgen.adapters.applied import apply as apply

__all__ = ["Adapter", "Applied", "Report", "apply", "as_adapters", "find", "from_tags", "parse", "sha256"]


def __getattr__(name: str) -> Any:
    if name in ("Applied", "Report", "apply"):
        from diffgen.adapters import applied

        return getattr(applied, name)
    raise AttributeError(f"module 'diffgen.adapters' has no attribute {name!r}")
