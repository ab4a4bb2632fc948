"""Noise, drawn a picture at a time from that picture's own seed.

Each picture has a `torch.Generator("cpu")` of its own, and noise is drawn in float32 in the order of axes in
which the reference implementation draws it. So a seed gives the same picture alone, in any batch, on any
device, and in diffusers with a list of generators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from diffgen.contracts import Latents, Noise, Step

AXES = "bcfhw"
NoiseKind = Literal["fresh", "brownian"]
# The clock of Brownian noise is ln(alpha / sigma), cut off where nothing but noise or nothing but signal is left.
# The ends belong to the path that a seed gives, so they are the same for every model, schedule and step count.
CLOCK = (-12.0, 12.0)


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
    if order == AXES and len(gens) == 1:  # most often; half the time of what follows
        return torch.randn(1, *shape[1:], generator=gens[0], dtype=torch.float32)
    sizes = dict(zip(AXES, [1, *shape[1:]], strict=True))
    rows = [torch.randn([sizes[axis] for axis in order], generator=gen, dtype=torch.float32) for gen in gens]
    back = [order.index(axis) for axis in AXES]
    return torch.cat(rows).permute(back).contiguous()


def sequence(
    seeds: Sequence[int], shape: Sequence[int], *, order: str = AXES, device: torch.device | str = "cpu",
    skip: Sequence[int] | None = None, kind: NoiseKind = "fresh",
) -> tuple[Latents, Callable[[], Noise]]:
    """The first noise of each seed, and a factory for the noises that follow it.

    Each call of the factory starts again right after the first noise, so a run repeated is a run repeated.

    Args:
        skip: noise of this shape [batch, channels, frames, height, width] has been drawn from each seed before.
        kind: "fresh" is independent at each step, in diffusers' order; "brownian" are the increments of one path
            for each seed, so that 20, 40 and 80 steps follow the same path.
    """

    def begin() -> tuple[list[torch.Generator], Latents]:
        gens = generators(seeds)
        if skip is not None:
            draw(gens, skip)
        return gens, draw(gens, shape, order)

    first = begin()[1].to(device)
    if kind == "brownian":
        return first, lambda: brownian(seeds, shape, order=order, device=device)

    def factory() -> Noise:
        gens, _ = begin()

        def noise(step: Step) -> Latents:
            return draw(gens, shape, order).to(device)

        return noise

    return first, factory


def brownian(
    seeds: Sequence[int], shape: Sequence[int], *, order: str = AXES, device: torch.device | str = "cpu"
) -> Noise:
    """Unit noise for each step, from one Brownian path a seed: the increment over the step, normalised.

    The path is a virtual Brownian tree (2001.01328, section 4, by torchsde), so its value anywhere depends on the
    seed alone, and not on where it was asked before. Noise that takes a picture up again (churn, restart) is no
    increment of that path: it is fresh.
    """
    from torchsde import BrownianInterval

    sizes = dict(zip(AXES, [1, *shape[1:]], strict=True))
    size = [sizes[axis] for axis in order]
    back = [order.index(axis) for axis in AXES]
    start, stop = CLOCK
    trees = [
        BrownianInterval(t0=start, t1=stop, size=size, dtype=torch.float32, entropy=seed, tol=1e-5, halfway_tree=True)
        for seed in seeds
    ]

    # Apart from the starting noise, which the same seeds give.
    gens = generators([(seed + 1) * 2_654_435_761 % 2**63 for seed in seeds])

    def noise(step: Step) -> Latents:
        early, late = (min(max(lam, start), stop) for lam in (step.lam, step.next_lam))
        if late <= early:
            return draw(gens, shape, order).to(device)
        rows = [tree(early, late) / math.sqrt(late - early) for tree in trees]
        return torch.cat(rows).permute(back).contiguous().to(device)

    return noise
