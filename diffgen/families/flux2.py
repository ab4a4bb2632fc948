"""Flux.2 and Klein: streams of text and picture tokens, told by three layers of a chat model at once.

By Black Forest Labs, after Flux.1. The dev model listens to Mistral 3 and takes its guidance as an input; Klein
listens to Qwen 3, and is either distilled to four steps without guidance or a base model with it. Latents are
the autoencoder's in patches of 2 x 2, normalised by the running statistics of its batch norm. Pictures to edit
or look at come as further tokens, told apart by the first of four positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from diffgen import prompts as language
from diffgen.contracts import Branch, Cap, Conditioning, Defaults, Latents, LatentSpec, Patch, Residuals, Step
from diffgen.families.chat import chat_frame
from diffgen.families.common import (
    Parts,
    decode_frames,
    encode_frames,
    in_float32,
    no_text_options,
    references,
    text_notes,
)
from diffgen.families.scheduler import flow_shift
from diffgen.path import FlowPath, NoisePath, Prediction
from diffgen.prompts import Frame

TOKENS = 512
DEV_LAYERS, KLEIN_LAYERS = (10, 20, 30), (9, 18, 27)
# The authors' own words, line break included, part of what the network was trained with.
SYSTEM = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing on object "
    "relationships, object\nattribution and actions without speculation."
)
PICTURE_STRIDE = 10  # between the first positions of one picture and the next


@dataclass(frozen=True, kw_only=True)
class Flux2:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' Flux2Transformer2DModel.
        vae: diffusers' AutoencoderKLFlux2.
        text_encoder: transformers' Mistral3ForConditionalGeneration or Qwen3ForCausalLM.
        tokenizer: its tokenizer, with a chat template.
        layers: the text encoder's hidden states that are laid side by side.
        path, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    layers: tuple[int, ...]
    path: NoisePath
    defaults: Defaults
    name: str
    caps: frozenset[Cap]
    prediction: Prediction = "flow"

    @property
    def spec(self) -> LatentSpec:
        factor = 2 ** len(self.vae.config.block_out_channels)
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor, multiple=factor, size=(1024, 1024)
        )

    @property
    def components(self) -> Mapping[str, Any]:
        return {"denoiser": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def encode_text(self, prompts: Sequence[str], **options: Any) -> tuple[Conditioning, tuple[str, ...]]:
        """"hidden" [batch, 512, 3 * width], and notes on what was cut. The network sees the padding too."""
        no_text_options(self.name, options)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            device = self.text_encoder.device
            out = self.text_encoder(
                input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True, use_cache=False
            )
            return torch.cat([out.hidden_states[layer] for layer in self.layers], dim=-1)

        with torch.inference_mode():
            hidden, _, infos = language.encode_sequence(
                prompts, self.tokenizer, encode, length=TOKENS, frame=self._frame(),
                padding=self.tokenizer.padding_side,
            )  # fmt: skip
        return Conditioning(text={"hidden": hidden}), text_notes(infos)

    def _frame(self) -> Frame:
        if self.layers == KLEIN_LAYERS:
            return chat_frame(self.tokenizer, enable_thinking=False)
        system = {"role": "system", "content": [{"type": "text", "text": SYSTEM}]}
        return chat_frame(
            self.tokenizer, ask=False, system=[system], render=lambda text: [{"type": "text", "text": text}]
        )

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with "reference", "reference_2" ... as further tokens, each in its own size.

        Raises:
            UsageError: there is another kind of picture, or a size that is no multiple of the spec's.
        """
        found = references(self.name, visual, self.spec.multiple)
        return replace(cond, reference=tuple(self.encode(pixels) for pixels in found))

    def encode(self, pixels: Tensor) -> Latents:
        mean, deviation = self._statistics()
        z = pixel_unshuffle(encode_frames(self.vae, pixels).squeeze(2), 2).unsqueeze(2)
        return (z - mean) / deviation

    def decode(self, z: Latents) -> Tensor:
        mean, deviation = self._statistics()
        return decode_frames(self.vae, pixel_shuffle((z * deviation + mean).squeeze(2), 2).unsqueeze(2))

    def _statistics(self) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        mean, variance = (values.float()[:, None, None, None] for values in (norm.running_mean, norm.running_var))
        return mean, (variance + self.vae.config.batch_norm_eps).sqrt()

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond, shape = branch.cond, x.shape
        text, scale = cond.text["hidden"].to(self.dtype), cond.extra.get("guidance")
        placed = [(x, 0), *((picture, PICTURE_STRIDE * (k + 1)) for k, picture in enumerate(cond.reference))]
        tokens = torch.cat([picture.flatten(2).transpose(1, 2) for picture, _ in placed], dim=1)
        out = self.transformer(
            tokens.to(self.dtype),
            timestep=torch.full((shape[0],), step.level, dtype=self.dtype, device=x.device),
            guidance=None if scale is None else scale.to(device=x.device, dtype=torch.float32),
            encoder_hidden_states=text,
            txt_ids=_places(0, 1, 1, text.shape[1], x.device),
            img_ids=torch.cat([_places(at, z.shape[-2], z.shape[-1], 1, x.device) for z, at in placed]),
            return_dict=False,
            **residuals,
        )[0]
        # The answer for the references is thrown away.
        return out[:, : shape[-2] * shape[-1]].float().transpose(1, 2).reshape(shape)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def _places(first: int, height: int, width: int, length: int, device: torch.device) -> Tensor:
    """[height * width * length, 4]: picture, row, column and place in the text of each token."""
    axes = torch.tensor([first]), torch.arange(height), torch.arange(width), torch.arange(length)
    return torch.cartesian_prod(*axes).to(device)


def empirical_mu(tokens: int, steps: int) -> float:
    """ln of the shift that the authors fitted for a number of picture tokens and of steps.

    A line in the tokens was fitted at 10 and at 200 steps; other steps lie on the line through both. Beyond
    4,300 tokens the fit of 200 steps serves all.
    """
    few, many = 8.73809524e-05 * tokens + 1.89833333, 0.00016927 * tokens + 0.45666666
    return many if tokens > 4300 else few + (many - few) * (steps - 10) / 190


def _sized(config: Mapping[str, Any], token: int) -> Any:
    if not config.get("use_dynamic_shifting"):
        return flow_shift(config, token=token)

    def sized(width: int, height: int, frames: int, steps: int) -> Mapping[str, float]:
        return {"shift": math.exp(empirical_mu((width // token) * (height // token), steps))}

    return sized


def build(parts: Parts) -> Flux2:
    """The family from a checkpoint's parts: dev, Klein, or Klein's base as the index says."""
    vae = parts["vae"]
    networks = {name: parts[name] for name in ("transformer", "vae", "text_encoder", "tokenizer")}
    # The dev model's tokenizer comes inside a processor for pictures.
    networks["tokenizer"] = getattr(networks["tokenizer"], "tokenizer", networks["tokenizer"])
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "edit"})
    defaults = Defaults(
        sampler="euler", schedule="even", steps=50, guidance=4.0,
        sized=_sized(parts.configs.get("scheduler", {}), 2 ** len(vae.config.block_out_channels)),
    )  # fmt: skip
    if parts.index.get("_class_name") != "Flux2KleinPipeline":
        return Flux2(
            **networks, layers=DEV_LAYERS, path=FlowPath(), defaults=defaults, name="flux2",
            caps=caps | {"guidance_embedding"},
        )  # fmt: skip
    if parts.index.get("is_distilled"):
        defaults = replace(defaults, steps=4, guidance=1.0)
    else:
        caps |= {"negative_prompt"}
    return Flux2(
        **networks, layers=KLEIN_LAYERS, path=FlowPath(), defaults=defaults, name="flux2-klein", caps=caps
    )
