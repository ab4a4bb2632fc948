"""How the layers of a network are computed: kernels chosen by measuring the machine.

A choice never changes what is computed, only in which order it is added up: float32 pictures agree with torch's own
kernels to 1e-5, and bfloat16 ones are as near to float32 as torch's are. So they are on by default, and every recipe
says which were used. `resolve` turns what was asked for into a choice; `running` is the patch that carries it out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from diffgen.contracts import Family, Patch
from diffgen.kernels import machine, probe
from diffgen.kernels.choice import OFF as OFF
from diffgen.kernels.choice import Choice as Choice
from diffgen.kernels.layers import NETWORKS, patch, weight_bytes
from diffgen.kernels.layers import release as release

AUTO = "auto"
# Packed weights are kept beside the plain ones, so a network that takes more of the free memory is left as it is.
SHARE = 0.5


def resolve(asked: str | None, family: Family) -> Choice:
    """The choice for a family on this machine.

    Args:
        asked: "auto" or None measures, once for each machine and build of torch; "off" leaves everything to torch;
            else the text of a choice, such as a recipe holds.

    Raises:
        UsageError: the text names an unknown layer or kernel.
    """
    if asked not in (None, AUTO):
        return Choice.from_text(str(asked))
    if family.device.type != "cpu" or not _fits(family):
        return Choice()
    return probe.choose(family.dtype).choice


def _fits(family: Family) -> bool:
    """Whether there is memory for packed copies of the denoiser's weights."""
    free = machine.available_memory()
    return free is None or packed_bytes(family) <= SHARE * free


def packed_bytes(family: Family) -> int:
    """Bytes that packing the family's networks takes, beside their weights."""
    components: Mapping[str, object] = family.components
    found = [components.get(name) for name in NETWORKS]
    return sum(weight_bytes(network) for network in found if isinstance(network, torch.nn.Module))


def running(choice: Choice) -> Patch:
    """The patch that computes a family's networks by `choice` until its end."""
    return patch(choice)
