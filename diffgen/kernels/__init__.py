"""How the layers of a network are computed: kernels chosen by measuring the machine.

A choice never changes what is computed, only in which order it is added up: float32 results agree with torch's own
kernels to 1e-5, and bfloat16 ones are as near to float32 as torch's are. So they are on by default, and every recipe
says which were used. `resolve` turns what was asked for into the text that the recipe keeps; `running` carries it out.

torch is imported when a choice is made or carried out, not before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffgen.contracts import Family
    from diffgen.kernels.choice import Choice

# The last is what a CUDA device is given: decided at each call, from the device's capability (`cuda.py`).
AUTO, OFF, BY_DEVICE = "auto", "off", "by-device"
# Packed weights are kept beside the plain ones, so networks that take more of the free memory are left as they are.
SHARE = 0.5
# Networks with less than this are drawn before the measurement would be done, and gained nothing where it was taken.
SMALL = 200_000_000


def resolve(asked: str | None, family: Family) -> str:
    """The text of the choice for a family on this machine, for its recipes.

    Args:
        asked: "auto" or None measures, once for each machine and build of torch, unless the networks are so small
            that it does not pay; "off" leaves everything to torch; "by-device" is what suits a CUDA device; else the
            text of a choice, such as a recipe holds.

    Raises:
        UsageError: the text names an unknown layer or kernel.
    """
    from diffgen.kernels import machine, probe
    from diffgen.kernels.choice import Choice

    if asked not in (None, AUTO):
        return str(asked) if asked == BY_DEVICE else Choice.from_text(str(asked)).to_text()
    if family.device.type != "cpu":
        return BY_DEVICE if family.device.type == "cuda" else OFF
    free, size = machine.available_memory(), packed_bytes(family)
    if size < SMALL or (free is not None and size > SHARE * free):
        return OFF
    return probe.choose(family.dtype).choice.to_text()


@contextmanager
def running(text: str | None, family: Family) -> Iterator[tuple[str, ...]]:
    """Computes a family's networks by the choice in `text` until the end; gives notes on what this machine lacks.

    None, as in a recipe from before there were kernels, leaves everything to torch.
    """
    from diffgen.kernels.choice import Choice
    from diffgen.kernels.layers import patch

    if text == BY_DEVICE:
        with _on_device(family) as notes:
            yield notes
        return
    choice = Choice.from_text(text or OFF)
    with patch(choice)(family.components):
        yield _lacking(choice, family)


@contextmanager
def _on_device(family: Family) -> Iterator[tuple[str, ...]]:
    from diffgen.kernels import carry, cuda

    if family.device.type != "cuda":
        yield (
            f"the kernels of a CUDA device were asked for, and this is a {family.device.type}; torch's own were used",
        )
        return
    device = cuda.devices()[family.device.index or 0]
    names = tuple(name for name in ("denoiser", "denoiser_2") if name in family.components)
    settings = cuda.settings(device, str(family.dtype).removeprefix("torch."))
    with carry.on_cuda(device, settings, names=names)(family.components):
        yield ()


def _lacking(choice: Choice, family: Family) -> tuple[str, ...]:
    from diffgen.kernels import native

    wanted = {"linear": choice.linear == "packed", "conv": choice.conv == "packed", "fused": choice.blocks == "fused"}
    here = native.operations(family.dtype) if family.device.type == "cpu" else ()
    missing = [name for name, asked in wanted.items() if asked and name not in here]
    if not missing:
        return ()
    return (f"the recipe's kernels are not all on this machine ({', '.join(missing)}); torch's own were used for them",)


def packed_bytes(family: Family) -> int:
    """Bytes that packing the family's networks takes, beside their weights."""
    import torch

    from diffgen.kernels.layers import NETWORKS, weight_bytes

    found = [family.components.get(name) for name in NETWORKS]
    return sum(weight_bytes(network) for network in found if isinstance(network, torch.nn.Module))
