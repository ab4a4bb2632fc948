"""Frames that a clip is given and keeps: told to networks that have a place for them, held by the loop for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffgen.contracts import Conditioning, Family, Latents, Wrapper
from diffgen.errors import UnsupportedError, UsageError
from diffgen.path import mix
from diffgen.wrappers import clamp, hold


@dataclass(frozen=True, kw_only=True)
class Held:
    """What holding frames does to a plan: its conditioning, its start, its wrappers, and notes."""

    pos: Conditioning
    neg: Conditioning | None
    x: Latents
    wrappers: tuple[Wrapper, ...] = ()
    notes: tuple[str, ...] = ()


def stack(kept: Mapping[int, Tensor], frames: int) -> dict[str, Tensor]:
    """ "image" and "given" as `Family.attach` takes them, of pixels [3, height, width] in -1..1 by frame number."""
    pixels = next(iter(kept.values()))
    image, given = torch.zeros(1, 3, frames, *pixels.shape[1:]), torch.zeros(1, 1, frames, 1, 1)
    for frame, picture in kept.items():
        image[0, :, frame], given[:, :, frame] = picture, 1
    return {"image": image, "given": given}


def drawn_first(family: Family, kept: Mapping[int, Tensor], shape: Sequence[int]) -> tuple[int, ...] | None:
    """The shape of the noise that the family draws for the picture a clip begins with; None where it draws none."""
    if "image_to_video" not in family.caps or 0 not in kept or family.spec.draw_visual is None:
        return None
    if family.spec.draw_visual == "pixels":
        return shape[0], 3, 1, *next(iter(kept.values())).shape[1:]
    return (*shape[:2], 1, *shape[3:])


def keep(
    family: Family, pos: Conditioning, neg: Conditioning | None, x: Latents, noise: Latents, alpha: float, sigma: float,
    kept: Mapping[int, Tensor], frames: int, drawn: Tensor | None,
) -> Held:  # fmt: skip
    """The plan's parts with the frames `kept`, pixels [3, height, width] in -1..1 by frame number.

    Args:
        x: the starting latents.
        noise: the unit noise in them.
        alpha, sigma: of the first level.
        drawn: what `drawn_first` asked for.

    Raises:
        UsageError: a frame lies outside the clip.
        UnsupportedError: the family's latents cannot hold these frames.
    """
    outside = [frame for frame in kept if not 0 <= frame < frames]
    if outside:
        raise UsageError(f"the clip has {frames} frames, 0 to {frames - 1}; a picture was given for {outside[0]}")
    told, left = _attached(family, pos, kept, frames, drawn)
    if neg is not None and told is not pos:
        # Both branches see the same picture; encoding it twice would cost as much again.
        seen = {name: value for name, value in told.extra.items() if name not in neg.extra}
        neg = replace(told, text=neg.text, extra={**neg.extra, **seen})
    wrappers: list[Wrapper] = []
    if told.clean is not None:
        clean, latents = told.clean.bool(), told.extra["kept"]
        x = torch.where(clean, latents, x)
        wrappers.append(hold(clean, latents))
    if not left:
        return Held(pos=told, neg=neg, x=x, wrappers=tuple(wrappers))
    latents, mask = _encoded(family, left, x)
    x = torch.lerp(x, mix(latents, noise, alpha, sigma), mask.expand_as(x))
    wrappers.append(clamp(mask, latents, noise))
    count = f"{len(left)} frames are" if len(left) > 1 else "1 frame is"
    note = f"{family.name} has no input for them: {count} held by the loop"
    return Held(pos=told, neg=neg, x=x, wrappers=tuple(wrappers), notes=(note,))


def _attached(
    family: Family, pos: Conditioning, kept: Mapping[int, Tensor], frames: int, drawn: Tensor | None
) -> tuple[Conditioning, Mapping[int, Tensor]]:
    """The conditioning with as many of the frames as the network takes, and the frames it does not."""
    if "image_to_video" not in family.caps:
        return pos, kept
    more = {} if drawn is None else {"noise": drawn}

    def attach(part: Mapping[int, Tensor]) -> Conditioning:
        with torch.inference_mode():
            visual = {**stack(part, frames), **more}
            return family.attach(pos, {name: tensor.to(family.device) for name, tensor in visual.items()})

    if set(kept) == {0} or "keyframes" in family.caps:
        return attach(kept), {}
    if 0 not in kept:
        raise UnsupportedError(f"{family.name} begins with a picture; frame 0 is missing, given: {sorted(kept)}")
    try:
        return attach(kept), {}
    except UnsupportedError:
        # Only the first. Latents of several frames are held as whole beginnings, which the first is a part of.
        later = {frame: pixels for frame, pixels in kept.items() if frame}
        return attach({0: kept[0]}), kept if family.spec.frame_factor > 1 else later


def _encoded(family: Family, kept: Mapping[int, Tensor], x: Latents) -> tuple[Latents, Tensor]:
    """(latents like x, mask [1, 1, frames, 1, 1]) of frames that the loop is to hold."""
    factor = family.spec.frame_factor
    latents, mask = torch.zeros_like(x), x.new_zeros(1, 1, x.shape[2], 1, 1)

    def encode(frames: Sequence[int]) -> Latents:
        with torch.inference_mode():
            return family.encode(torch.stack([kept[k] for k in frames], dim=1)[None].to(family.device)).to(x)

    if factor == 1:
        for frame in kept:
            latents[:, :, frame] = encode([frame])[:, :, 0]
            mask[:, :, frame] = 1
        return latents, mask
    # Latents that hold several frames: only a whole beginning can be held.
    count = max(kept) + 1
    whole = (count - 1) // factor * factor + 1
    if 0 not in kept and set(kept) == set(range(1, count)):
        raise UnsupportedError(f"{family.name}: frame 0 is missing, and its latents hold {factor} frames each")
    if set(kept) != set(range(count)) or whole != count:
        raise UnsupportedError(
            f"{family.name} can hold the first 1, {1 + factor}, {1 + 2 * factor} ... frames of a clip, since a latent "
            f"stands for {factor}; given: {', '.join(map(str, sorted(kept)[:6]))}{' ...' if len(kept) > 6 else ''}"
        )
    found = encode(range(count))
    latents[:, :, : found.shape[2]] = found
    mask[:, :, : found.shape[2]] = 1
    return latents, mask
