"""diffgen: latent diffusion for pictures and clips. One loop, every model family an adapter.

    import diffgen
    from diffgen.pipelines import text_to_image

    model = diffgen.load()                      # the model in the box
    picture = text_to_image(model, "3d emoji of a red apple", seed=7).images[0]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# From the repository's root, `./diffgen` is found before an installed wheel, and the folders that setup.cfg
# maps below it (pipelines, train, assets) lie beside it. Making the root part of the search path finds them.
_root = Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").is_file() and (_root / "pipelines").is_dir():
    __path__.append(str(_root))

if TYPE_CHECKING:
    from diffgen.checkpoints import load as load


def __getattr__(name: str) -> Any:
    # Lazy, so that `import diffgen` and `diffgen --help` never import torch.
    if name == "load":
        from diffgen.checkpoints import load

        return load
    raise AttributeError(f"module 'diffgen' has no attribute {name!r}")
