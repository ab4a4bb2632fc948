"""Sana and Sana-Sprint: a linear-attention transformer on latents of 1/32 of the size, told by Gemma 2.

2410.10629, and 2503.09641 for Sprint, which needs one to four steps. Sprint's authors put its noise on a circle
(TrigFlow). Dividing by |alpha + sigma i| turns that circle into the straight path: x0, noise and the network's
raw output stay what they are, so Sprint is Sana with consistency steps and a guidance input.

Both were trained on captions in lower case after an instruction to enrich them. Links, hashtags and the like
are not taken out of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffgen import prompts as language
from diffgen.contracts import Branch, Cap, Conditioning, Defaults, Latents, LatentSpec, Patch, Residuals, Step
from diffgen.families.common import (
    Parts,
    decode_frames,
    in_float32,
    no_text_options,
    pictures,
    text_notes,
)
from diffgen.families.scheduler import flow_path, flow_shift
from diffgen.families.t5 import lower_case
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 300
# The authors' own words, part of what the network was trained with. The prompt follows after a space.
INSTRUCTION = """\
Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for image \
generation. Evaluate the level of detail in the user prompt:
- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial \
relationships to create vivid and concrete scenes.
- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.
Here are examples of how to transform or refine prompts:
- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping \
peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.
- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street \
lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass skyscrapers.
Please generate only the enhanced description for the prompt below and avoid including any additional commentary \
or evaluations:
User Prompt:"""
# The angle of Sprint's second step of two; its authors' choice. Halfway would be pi / 4.
SECOND_OF_TWO = 1.3


@dataclass(frozen=True, kw_only=True)
class Sana:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' SanaTransformer2DModel.
        vae: diffusers' AutoencoderDC.
        text_encoder: transformers' Gemma2Model.
        tokenizer: its tokenizer.
        path, defaults: from the checkpoint's scheduler config.
        time_factor: what the path's times are multiplied with for the network.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    defaults: Defaults
    time_factor: float = 1.0
    name: str = "sana"
    prediction: Prediction = "flow"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = self.vae.spatial_compression_ratio
        side = self.transformer.config.sample_size * factor
        return LatentSpec(
            channels=self.transformer.config.in_channels, factor=factor,
            multiple=factor * self.transformer.config.patch_size, size=(side, side),
        )  # fmt: skip

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
        """"hidden" [batch, 300, width] and "mask" [batch, 300], and notes on what was cut.

        The first prompt, the positive one, is encoded after the instruction, of which the begin token is kept.
        """
        no_text_options(self.name, options)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            device = self.text_encoder.device
            return self.text_encoder(ids.to(device), attention_mask=mask.to(device)).last_hidden_state  # type: ignore[no-any-return]

        frame = language.frame_around(self.tokenizer, INSTRUCTION)
        told = len(self.tokenizer.encode(INSTRUCTION + " "))
        with torch.inference_mode():
            hidden, mask, infos = language.encode_sequence(
                [" " + lower_case(prompts[0])], self.tokenizer, encode, length=told + TOKENS - 2, frame=frame
            )
            kept = [0, *range(hidden.shape[1] - TOKENS + 1, hidden.shape[1])]
            rows, masks = [hidden[:, kept]], [mask[:, kept]]
            if len(prompts) > 1:
                texts = [lower_case(prompt) for prompt in prompts[1:]]
                hidden, mask, more = language.encode_sequence(texts, self.tokenizer, encode, length=TOKENS)
                rows, masks, infos = [*rows, hidden], [*masks, mask], infos + more
        text = {"hidden": torch.cat(rows), "mask": torch.cat(masks).to(self.device)}
        return Conditioning(text=text), text_notes(infos)

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """The conditioning itself: no published Sana takes pictures."""
        pictures(self.name, visual)
        return cond

    def encode(self, pixels: Tensor) -> Latents:
        out = self.vae.encode(pixels.squeeze(2).to(self.vae.dtype), return_dict=False)[0]
        return out.float().unsqueeze(2) * self.vae.config.scaling_factor  # type: ignore[no-any-return]

    def decode(self, z: Latents) -> Tensor:
        return decode_frames(self.vae, z / self.vae.config.scaling_factor)

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        text, config = branch.cond.text, self.transformer.config
        guidance = branch.cond.extra.get("guidance")
        out = self.transformer(
            x.squeeze(2).to(self.dtype),
            encoder_hidden_states=text["hidden"].to(self.dtype),
            encoder_attention_mask=text["mask"],
            timestep=torch.full((x.shape[0],), step.t * self.time_factor, dtype=torch.float32, device=x.device),
            guidance=None if guidance is None else guidance.to(self.dtype) * config.guidance_embeds_scale,
            return_dict=False,
            **residuals,
        )[0]
        return out[:, : x.shape[1]].float().unsqueeze(2)

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def _sprint(width: int, height: int, frames: int, steps: int) -> Mapping[str, float]:
    return {"shift": math.tan(SECOND_OF_TWO) if steps == 2 else 1.0}


def build(parts: Parts) -> Sana:
    """The family from a checkpoint's parts; Sprint where the index says so."""
    transformer = parts["transformer"]
    networks = {name: parts[name] for name in ("transformer", "vae", "text_encoder", "tokenizer")}
    if parts.index.get("_class_name") == "SanaSprintPipeline":
        return Sana(
            **networks, name="sana-sprint", path=FlowPath(time_scale=1.0),
            defaults=Defaults(sampler="lcm", schedule="trig", steps=2, guidance=4.5, sized=_sprint),
            caps=frozenset({"text_to_image", "image_to_image", "inpaint", "guidance_embedding"}),
        )  # fmt: skip
    config = parts.configs.get("scheduler", {})
    token = networks["vae"].spatial_compression_ratio * transformer.config.patch_size
    path, sized = flow_path(config), flow_shift(config, token=token)
    defaults = Defaults(sampler="euler", schedule="normal", steps=20, guidance=4.5, sized=sized)
    if config.get("use_flow_sigmas"):
        # diffusers' DPM-Solver spaces 999/1000 .. 0 evenly, and tells the network whole thousandths.
        path = FlowPath(max_level=0.999, whole=True)
        shift = float(config.get("flow_shift", 1.0))
        defaults = replace(defaults, sampler="dpmpp_2m", schedule="even", sized=lambda *size: {"shift": shift})
    return Sana(**networks, path=path, defaults=defaults, time_factor=transformer.config.timestep_scale)
