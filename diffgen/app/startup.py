"""Loading a model quickly: what `diffgen image` and `diffgen replay` do before the first step."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

from diffgen.checkpoints.deferred import undisturbed
from diffgen.errors import UsageError

if TYPE_CHECKING:
    from diffgen.checkpoints import Model


def load_model(
    model: str | None, *, dtype: str = "auto", device: str = "auto", anywhere: bool = False, **parts: Any
) -> Model:  # fmt: skip
    """`diffgen.load`, imports included, without Python's garbage collector running in between.

    Importing torch and diffusers makes some two million objects that all stay. Here torch is imported in the pause
    too, and what is there then is put out of the collector's sight, which spares a look at exit. Only for a process
    that ends with its command.

    `anywhere` takes the device of "auto" where this machine has no such device; `parts` are further arguments
    for `diffgen.load`. Raises as that does.
    """
    with undisturbed():
        import diffgen.pipelines  # noqa: F401  (imported here for the pause)
        from diffgen.checkpoints import load
        from diffgen.checkpoints.load import pick_device

        try:
            pick_device(device)
        except UsageError:
            if not anywhere:
                raise
            device = "auto"
        loaded = load(model, dtype=dtype, device=device, **parts)
        gc.freeze()
    return loaded
