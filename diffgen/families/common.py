"""What several families share: picture autoencoders applied frame by frame, and the step up to float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffgen.contracts import Components, Latents, Patch
from diffgen.errors import CheckpointError, UnsupportedError, UsageError
from diffgen.prompts import TextInfo


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A checkpoint as it was read, before anyone knows what it means.

    Attributes:
        origin: where it came from, for messages.
        index: the content of model_index.json.
        components: networks, tokenizers and processors by their name in the index; absent ones are left out.
        configs: the JSON configuration of schedulers and of components that were not loaded, by name.
    """

    origin: Path
    index: Mapping[str, Any]
    components: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """The component of that name.

        Raises:
            CheckpointError: the checkpoint has none.
        """
        if name not in self.components:
            raise CheckpointError(f"{self.origin} has no {name}; it has {', '.join(sorted(self.components))}")
        return self.components[name]


def as_frames(tensor: Tensor) -> Tensor:
    """[batch, channels, frames, h, w] to [batch * frames, channels, h, w]."""
    return tensor.transpose(1, 2).flatten(0, 1)


def from_frames(tensor: Tensor, batch: int) -> Tensor:
    """The inverse of `as_frames` for `batch` clips."""
    return tensor.unflatten(0, (batch, -1)).transpose(1, 2).contiguous()


def encode_frames(vae: Any, pixels: Tensor) -> Latents:
    """The mode of a picture autoencoder's latents, float32, unscaled.

    Args:
        pixels: [batch, 3, frames, height, width] in -1..1.
    """
    out = vae.encode(as_frames(pixels).to(vae.dtype))
    latents = out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents
    return from_frames(latents.float(), pixels.shape[0])


def decode_frames(vae: Any, z: Latents) -> Tensor:
    """Pixels [batch, 3, frames, height, width], about -1..1, float32, of a picture autoencoder."""
    return from_frames(vae.decode(as_frames(z).to(vae.dtype), return_dict=False)[0].float(), z.shape[0])


def encode_scaled(vae: Any, pixels: Tensor) -> Latents:
    """`encode_frames`, centred and scaled as the autoencoder's own configuration says."""
    config = vae.config
    return (encode_frames(vae, pixels) - (config.get("shift_factor") or 0.0)) * config.scaling_factor


def decode_scaled(vae: Any, z: Latents) -> Tensor:
    """The inverse of `encode_scaled`, through `decode_frames`."""
    config = vae.config
    return decode_frames(vae, z / config.scaling_factor + (config.get("shift_factor") or 0.0))


def pictures(family: str, visual: Mapping[str, Tensor], *needed: str) -> tuple[Tensor, ...]:
    """The pictures `needed` out of what `Family.attach` was given, in that order.

    Raises:
        UsageError: one is missing, or there is one that the family has no place for.
    """
    if set(visual) != set(needed):
        wanted, given = ", ".join(needed) or "no picture", ", ".join(sorted(visual)) or "none"
        raise UsageError(f"{family} takes {wanted}; given: {given}")
    return tuple(visual[name] for name in needed)


def references(family: str, visual: Mapping[str, Tensor], unit: int) -> tuple[Tensor, ...]:
    """The pictures "reference", "reference_2" ... out of what `Family.attach` was given, in the order of their numbers.

    Args:
        unit: pixels that both sides of each must be a multiple of.

    Raises:
        UsageError: there is a picture of another name, or of a size that does not fit.
    """
    numbers = {name: name.removeprefix("reference_") if "_" in name else "1" for name in visual}
    strange = [name for name, number in numbers.items() if not (name.startswith("reference") and number.isdecimal())]
    if strange:
        raise UsageError(f"{family} takes reference, reference_2 ...; given: {', '.join(sorted(visual))}")
    for name, pixels in visual.items():
        height, width = pixels.shape[-2:]
        if height % unit or width % unit:
            raise UsageError(f"{name} is {width}x{height}; both sides must be multiples of {unit}")
    return tuple(visual[name] for name in sorted(visual, key=lambda name: int(numbers[name])))


def to_tokens(latents: Latents, side: int = 2) -> Tensor:
    """Patches of `side` x `side` latents as tokens, row by row.

    [batch, channels, 1, h, w] to [batch, h * w / side^2, channels * side^2], a channel's own patch together.
    """
    return torch.nn.functional.pixel_unshuffle(latents.squeeze(2), side).flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, height: int, side: int = 2) -> Latents:
    """The inverse of `to_tokens` for latents `height` rows high."""
    return torch.nn.functional.pixel_shuffle(
        tokens.transpose(1, 2).unflatten(2, (height // side, -1)), side
    ).unsqueeze(2)


def _dtypes(module: torch.nn.Module) -> dict[str, torch.dtype]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.dtype for name, tensor in tensors.items() if tensor.is_floating_point()}


def _restore(module: torch.nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, dtype in dtypes.items():
        tensors[name].data = tensors[name].data.to(dtype)


def in_float32(*names: str) -> Patch:
    """A patch that runs the named components in float32 and restores the dtype of every tensor to the bit."""

    @contextmanager
    def patch(components: Components) -> Iterator[None]:
        with ExitStack() as stack:
            for name in names:
                module = components[name]
                # Widening is exact, so narrowing again gives back the very same weights. One by one: some networks
                # keep a part in float32 while the rest is not.
                stack.callback(_restore, module, _dtypes(module))
                module.to(torch.float32)
            yield

    return patch


def no_text_options(family: str, options: Mapping[str, Any]) -> None:
    """Refuses settings for text encoders that have none.

    Raises:
        UnsupportedError: `options` is not empty.
    """
    if options:
        raise UnsupportedError(f"{family} has no setting {sorted(options)[0]!r}: its text encoders take none")


def text_notes(infos: Sequence[TextInfo]) -> tuple[str, ...]:
    """What became of prompts, in sentences: words without a token, and words cut off. Empty when all is well."""
    notes = []
    for info in infos:
        if info.unknown:
            notes.append(f"the tokenizer has no token for: {', '.join(info.unknown)}")
        if info.dropped:
            words = " ".join(info.dropped_words)
            notes.append(f"{info.dropped} of {info.tokens} tokens were cut from the prompt, from {words!r} on")
    return tuple(notes)
