"""Layouts that diffusers alone knows how to read: its conversion function is run on names instead of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from diffgen.checkpoints.keys import Piece, Shape

# By the layout's name: the function of diffusers.loaders.single_file_utils, and the prefix that it expects.
FUNCTIONS = {"ltx-vae": ("convert_ltx_vae_checkpoint_to_diffusers", "vae.")}


class _Token:
    """Stands for a tensor in a function that renames."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.name, self.shape = name, shape


def inward(shapes: Mapping[str, Shape], layout: str) -> dict[str, Piece]:
    """Network name -> piece of the original file."""
    function, prefix = FUNCTIONS[layout]
    convert = getattr(import_module("diffusers.loaders.single_file_utils"), function)
    tokens = {prefix + name: _Token(name, shape) for name, shape in shapes.items()}
    return {name: Piece((token.name,)) for name, token in convert(tokens).items()}
