"""Flux.1: dev, schnell, Fill and Kontext. A transformer over picture and text tokens on the straight path.

Black Forest Labs, 2024; Kontext 2506.15742. The network sees 2 x 2 latents as one token; everywhere else the
latents keep their shape. Dev, Fill and Kontext are guidance-distilled: the scale is an input. CLIP gives one
pooled vector, T5 the tokens. A picture's tokens (Redux) stand behind the text's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffgen.contracts import (
    Branch,
    Cap,
    Conditioning,
    Defaults,
    Latents,
    LatentSpec,
    Patch,
    Residuals,
    Step,
)
from diffgen.errors import CheckpointError, UsageError
from diffgen.families.clip import encode_layer
from diffgen.families.common import (
    Parts,
    decode_scaled,
    encode_scaled,
    from_tokens,
    in_float32,
    no_text_options,
    pictures,
    references,
    to_tokens,
)
from diffgen.families.scheduler import flow_shift
from diffgen.families.stable_diffusion import with_channels
from diffgen.families.t5 import encode_t5
from diffgen.path import FlowPath, NoisePath, Prediction

# What Kontext was trained at: about a million pixels in every shape. Pictures to edit belong at one of these.
_SIDES = ((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104))
KONTEXT_SIZES = (*_SIDES, (1024, 1024), *((height, width) for width, height in reversed(_SIDES)))


@dataclass(frozen=True, kw_only=True)
class Flux:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' FluxTransformer2DModel.
        vae: diffusers' AutoencoderKL with 16 channels.
        tokenizer, text_encoder: of CLIP-L, for the pooled text.
        tokenizer_2, text_encoder_2: of T5.
        text_tokens: T5 tokens of every prompt.
        defaults: with the checkpoint's own shift.
    """

    transformer: Any
    vae: Any
    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any
    text_encoder_2: Any
    defaults: Defaults
    caps: frozenset[Cap]
    name: str
    text_tokens: int = 512
    path: NoisePath = field(default_factory=FlowPath)
    prediction: Prediction = "flow"

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return LatentSpec(
            channels=self.vae.config.latent_channels, factor=factor, multiple=2 * factor, size=(1024, 1024),
            sizes=KONTEXT_SIZES if "edit" in self.caps else (),
        )  # fmt: skip

    @property
    def components(self) -> Mapping[str, Any]:
        return {
            "denoiser": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder,
            "text_encoder_2": self.text_encoder_2,
        }  # fmt: skip

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """"hidden" [batch, text_tokens, width] of T5, "pooled" [batch, p] of CLIP's first 77 tokens, and notes."""
        no_text_options(self.name, options)
        _, pooled, _ = encode_layer(prompts, self.tokenizer, self.text_encoder)
        # The network was trained on T5's output over all of the padding.
        hidden, _, notes = encode_t5(
            prompts, self.tokenizer_2, self.text_encoder_2, length=self.text_tokens, masked=False
        )
        return Conditioning(text={"hidden": hidden, "pooled": pooled}), notes

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with what the network sees of pictures, by its kind.

        Fill takes "image" and "mask", Kontext any number of "reference" pictures in their own sizes, and each of
        them "vision": tokens [batch, tokens, width] as Redux makes them, of the width of T5's.

        Raises:
            UsageError: a picture is missing, has no place, or does not fit.
        """
        rest = dict(visual)
        vision = rest.pop("vision", None)
        if vision is not None:
            width = self.transformer.config.joint_attention_dim
            if vision.shape[-1] != width:
                raise UsageError(f"{self.name} takes vision tokens of width {width}; got {vision.shape[-1]}")
            cond = replace(cond, vision=vision)
        if "edit" in self.caps:
            seen = references(self.name, rest, self.spec.multiple)
            return replace(cond, reference=tuple(self.encode(pixels) for pixels in seen))
        if self.takes_mask:
            return replace(cond, concat=self._masked(*pictures(self.name, rest, "image", "mask")))
        pictures(self.name, rest)
        return cond

    @property
    def takes_mask(self) -> bool:
        """Whether this is Fill, whose tokens hold the latents, the masked latents and every pixel of the mask."""
        return self.transformer.config.in_channels > 4 * self.spec.channels

    def _masked(self, image: Tensor, mask: Tensor) -> Latents:
        """[batch, channels + factor^2, 1, h, w]: the latents of what the mask leaves, then the mask's pixels."""
        hole = (mask >= 0.5).to(image.dtype)
        kept = self.encode(image * (1 - hole))
        pixels = torch.nn.functional.pixel_unshuffle(hole.squeeze(2), self.spec.factor).unsqueeze(2)
        return torch.cat([kept, pixels], dim=1)

    def encode(self, pixels: Tensor) -> Latents:
        return encode_scaled(self.vae, pixels)

    def decode(self, z: Latents) -> Tensor:
        return decode_scaled(self.vae, z)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond, height, width = branch.cond, x.shape[-2], x.shape[-1]
        tokens = to_tokens(with_channels(x, cond, self.transformer.config.in_channels // 4))
        own, places = tokens.shape[1], [grid(height, width)]
        for index, reference in enumerate(cond.reference, start=1):
            tokens = torch.cat([tokens, to_tokens(reference)], dim=1)
            places.append(grid(reference.shape[-2], reference.shape[-1], index))
        hidden = cond.text["hidden"]
        if cond.vision is not None:
            hidden = torch.cat([hidden, cond.vision], dim=1)
        out = self.transformer(
            hidden_states=tokens.to(self.dtype),
            timestep=torch.full((x.shape[0],), step.t / 1000, dtype=torch.float32, device=x.device),
            guidance=self._scale(cond, x),
            pooled_projections=cond.text["pooled"].to(self.dtype),
            encoder_hidden_states=hidden.to(self.dtype),
            txt_ids=torch.zeros(hidden.shape[1], 3, device=x.device),
            img_ids=torch.cat(places).to(x.device),
            return_dict=False,
            **residuals,
        )[0]
        return from_tokens(out[:, :own].float(), height)

    def _scale(self, cond: Conditioning, x: Latents) -> Tensor | None:
        """The guidance scale [batch] as the network's input, where it has one."""
        if "guidance_embedding" not in self.caps:
            return None
        given = cond.extra.get("guidance")
        scale = torch.full((x.shape[0],), self.defaults.guidance) if given is None else given
        return scale.to(x.device, torch.float32)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        if self.dtype == torch.float32:
            return ()
        return (("the transformer in float32", in_float32("denoiser")),)


def grid(height: int, width: int, picture: int = 0) -> Tensor:
    """[tokens, 3]: which picture, row and column each token of `height` x `width` latents has; 0 is the drawn one."""
    rows, columns = torch.meshgrid(torch.arange(height // 2.0), torch.arange(width // 2.0), indexing="ij")
    return torch.stack([torch.full_like(rows, picture), rows, columns], dim=-1).flatten(0, 1)


def build(parts: Parts) -> Flux:
    """The family from a checkpoint's parts.

    Raises:
        CheckpointError: a part is missing, or the transformer's input is of no known layout.
    """
    transformer, vae = parts["transformer"], parts["vae"]
    channels = vae.config.latent_channels
    plain, filled = 4 * channels, 4 * (2 * channels + 4 ** (len(vae.config.block_out_channels) - 1))
    found = transformer.config.in_channels
    if found not in {plain, filled}:
        raise CheckpointError(
            f"the transformer of {parts.origin} takes {found} channels a token; "
            f"accepted: {plain} (dev, schnell, Kontext), {filled} (Fill)"
        )
    distilled = bool(transformer.config.guidance_embeds)
    caps: set[Cap] = {"text_to_image", "image_to_image", "inpaint", "negative_prompt"}
    # Schnell was trained on 256 tokens, and neither takes guidance nor needs more than four steps.
    name, guidance, steps, tokens = ("flux-dev", 3.5, 28, 512) if distilled else ("flux-schnell", 1.0, 4, 256)
    if found == filled:
        name, guidance, steps, caps = "flux-fill", 30.0, 50, {"inpaint", "negative_prompt"}
    elif "Kontext" in str(parts.index.get("_class_name")):
        name, caps = "flux-kontext", caps | {"edit"}
    if distilled:
        caps.add("guidance_embedding")
    return Flux(
        transformer=transformer, vae=vae, tokenizer=parts["tokenizer"], text_encoder=parts["text_encoder"],
        tokenizer_2=parts["tokenizer_2"], text_encoder_2=parts["text_encoder_2"], text_tokens=tokens,
        name=name, caps=frozenset(caps),
        defaults=Defaults(
            sampler="euler", schedule="even", steps=steps, guidance=guidance,
            sized=flow_shift(parts.configs.get("scheduler", {}), token=16),
        ),
    )  # fmt: skip
