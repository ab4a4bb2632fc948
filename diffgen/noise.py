"""Noise, drawn a picture at a time from that picture's own seed.

Each picture has a `torch.Generator("cpu")` of its own, and noise is drawn in float32 in the order of axes in
which the reference implementation draws it. So a seed gives the same picture alone, in any batch, on any
device, and in diffusers with a list of generators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from diffgen.contracts import Latents, Noise, Step

AXES = "bcfhw"


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator a seed."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def draw(gens: Sequence[torch.Generator], shape: Sequence[int], order: str = AXES) -> Latents:
    """Unit Gaussian noise, one row a generator.

    Args:
        gens: one generator a picture; each is advanced.
        shape: [batch, channels, frames, height, width] of the result.
        order: the axes in the order in which the numbers are drawn, a permutation of "bcfhw" starting with b.
    """
    sizes = dict(zip(AXES, [1, *shape[1:]], strict=True))
    rows = [torch.randn([sizes[axis] for axis in order], generator=gen, dtype=torch.float32) for gen in gens]
    back = [order.index(axis) for axis in AXES]
    return torch.cat(rows).permute(back).contiguous()


def sequence(
    seeds: Sequence[int], shape: Sequence[int], *, order: str = AXES, device: torch.device | str = "cpu",
    skip: Sequence[int] | None = None,
) -> tuple[Latents, Callable[[], Noise]]:
    """The first noise of each seed, and a factory for the independent noises that follow it.

    Each call of the factory starts again right after the first noise, so a run repeated is a run repeated.
    Noise of the shape `skip` [batch, channels, frames, height, width] has been drawn from each seed before.
    """

    def begin() -> tuple[list[torch.Generator], Latents]:
        gens = generators(seeds)
        if skip is not None:
            draw(gens, skip)
        return gens, draw(gens, shape, order)

    first = begin()[1].to(device)

    def factory() -> Noise:
        gens, _ = begin()

        def noise(step: Step) -> Latents:
            return draw(gens, shape, order).to(device)

        return noise

    return first, factory
