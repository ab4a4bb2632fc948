"""Qwen-Image and its edit variants: two streams of text and picture tokens, told by Qwen 2.5 VL. 2508.02324.

The edit variants take pictures twice: the text encoder looks at them beside the instruction, and their latents
come as further tokens. Guidance gives each patch of the guided prediction the norm of the positive one's.
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
from diffgen.errors import UsageError
from diffgen.families.common import (
    Parts,
    from_tokens,
    in_float32,
    no_text_options,
    pictures,
    references,
    text_notes,
    to_tokens,
)
from diffgen.families.scheduler import flow_shift
from diffgen.guidance import CFG, Renormed
from diffgen.path import FlowPath, NoisePath, Prediction

TOKENS = 512
# The authors' own words, part of what the networks were trained with. The first tokens, which are the same for
# every prompt, are left out of what the denoiser is told: 34 of them where it draws, 64 where it edits.
DRAW = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
EDIT = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new "
    "image that meets the user's requirements while maintaining consistency with the original input where "
    "appropriate.<|im_end|>\n<|im_start|>user\n"
)
ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
DROPPED = {DRAW: 34, EDIT: 64}
SHOWN_AREA = 384 * 384  # pixels of each picture that the text encoder of the "plus" variants looks at


@dataclass(frozen=True, kw_only=True)
class QwenImage:
    """The networks of one checkpoint, and what they mean. Implements `diffgen.contracts.Family`.

    Args:
        transformer: diffusers' QwenImageTransformer2DModel.
        vae: diffusers' AutoencoderKLQwenImage.
        text_encoder: transformers' Qwen2_5_VLForConditionalGeneration.
        tokenizer: its tokenizer.
        image_processor: what prepares pictures for the text encoder; None where it sees none.
        several: whether it edits with several, numbered pictures ("plus", 2509 and later).
        path, defaults: from the checkpoint's scheduler config.
    """

    transformer: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    path: NoisePath
    defaults: Defaults
    image_processor: Any = None
    several: bool = False
    name: str = "qwen-image"
    prediction: Prediction = "flow"
    caps: frozenset[Cap] = frozenset({"text_to_image", "image_to_image", "inpaint", "negative_prompt"})

    @property
    def spec(self) -> LatentSpec:
        factor = self.vae.spatial_compression_ratio
        side = 1024 if "edit" in self.caps else 1328
        return LatentSpec(channels=self.vae.config.z_dim, factor=factor, multiple=2 * factor, size=(side, side))

    @property
    def components(self) -> Mapping[str, Any]:
        return {"denoiser": self.transformer, "vae": self.vae, "text_encoder": self.text_encoder}

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    def encode_text(
        self, prompts: Sequence[str], *, pictures: Sequence[Tensor] = (), **options: Any
    ) -> tuple[Conditioning, tuple[str, ...]]:
        """"hidden" [batch, tokens, width] and "mask" [batch, tokens], and notes on what was cut.

        Args:
            pictures: what an edit variant is to look at beside the prompt, in order: pixels
                [1, 3, 1, height, width] in -1..1. Every prompt is read with all of them.

        Raises:
            UsageError: pictures where the checkpoint takes none, or none or too many where it edits.
        """
        no_text_options(self.name, options)
        edits = "edit" in self.caps
        if len(pictures) > (edits and (math.inf if self.several else 1)) or (edits and not pictures):
            wanted = "one or more pictures" if self.several else "one picture" if edits else "no picture"
            raise UsageError(f"the text encoder of {self.name} looks at {wanted}; given: {len(pictures)}")
        shown, seen = self._show(pictures) if pictures else ("", {})
        opening = EDIT if edits else DRAW

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            device = self.text_encoder.device
            out = self.text_encoder(
                input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True, **seen
            )
            return out.hidden_states[-1]  # type: ignore[no-any-return]

        frame = language.frame_around(self.tokenizer, opening + shown, ANSWER)
        length = len(frame.before) + TOKENS if edits else DROPPED[opening] + TOKENS
        with torch.inference_mode():
            hidden, mask, infos = language.encode_sequence(
                prompts, self.tokenizer, encode, length=length, frame=frame, padding="after"
            )
        text = {"hidden": hidden[:, DROPPED[opening] :], "mask": mask[:, DROPPED[opening] :].to(hidden.device)}
        return Conditioning(text=text), text_notes(infos)

    def _show(self, pictures: Sequence[Tensor]) -> tuple[str, Mapping[str, Tensor]]:
        """The text that stands for the pictures, and what the text encoder needs to see them."""
        images = [_as_image(pixels, SHOWN_AREA if self.several else None) for pixels in pictures]
        ready = self.image_processor(images=images, return_tensors="pt")
        counts = (ready["image_grid_thw"].prod(1) // self.image_processor.merge_size**2).tolist()
        places = ["<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>" for count in counts]
        if self.several:
            places = [f"Picture {k + 1}: {place}" for k, place in enumerate(places)]
        device, dtype = self.text_encoder.device, self.text_encoder.dtype
        return "".join(places), {
            "pixel_values": ready["pixel_values"].to(device=device, dtype=dtype),
            "image_grid_thw": ready["image_grid_thw"].to(device),
        }

    def attach(self, cond: Conditioning, visual: Mapping[str, Tensor]) -> Conditioning:
        """`cond` with "reference", "reference_2" ... as further tokens, each in its own size, best about 1024 x 1024.

        Raises:
            UsageError: the checkpoint takes no pictures, or not so many, or not of this kind or size.
        """
        if "edit" not in self.caps or not self.several:
            pictures(self.name, visual, *(["reference"] if "edit" in self.caps else []))
        found = references(self.name, visual, self.spec.multiple)
        return replace(cond, reference=tuple(self.encode(pixels) for pixels in found))

    def encode(self, pixels: Tensor) -> Latents:
        mean, deviation = self._statistics()
        z = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mode().float()
        return (z - mean) / deviation

    def decode(self, z: Latents) -> Tensor:
        mean, deviation = self._statistics()
        return self.vae.decode((z * deviation + mean).to(self.vae.dtype), return_dict=False)[0].float()

    def _statistics(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        values = torch.tensor([config.latents_mean, config.latents_std], device=self.vae.device)
        return values[0][:, None, None, None], values[1][:, None, None, None]

    def predict(self, x: Latents, step: Step, branch: Branch, residuals: Residuals) -> Latents:
        cond, mask = branch.cond, branch.cond.text["mask"]
        placed = [x, *cond.reference]
        tokens = torch.cat([to_tokens(picture) for picture in placed], dim=1)
        extents = [(1, picture.shape[-2] // 2, picture.shape[-1] // 2) for picture in placed]
        out = self.transformer(
            hidden_states=tokens.to(self.dtype),
            timestep=torch.full((x.shape[0],), step.level, dtype=self.dtype, device=x.device),
            encoder_hidden_states=cond.text["hidden"].to(self.dtype),
            # Attention without a mask is faster, and one prompt alone needs none.
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[extents] * x.shape[0],
            return_dict=False,
            **residuals,
        )[0]
        # The answer for the references is thrown away.
        return from_tokens(out[:, : extents[0][1] * extents[0][2]].float(), x.shape[-2])

    def safer(self) -> tuple[tuple[str, Patch], ...]:
        return () if self.dtype == torch.float32 else (("the transformer in float32", in_float32("denoiser")),)


def _as_image(pixels: Tensor, area: int | None) -> Any:
    """A PIL picture of [1, 3, 1, height, width] in -1..1; of about `area` pixels in multiples of 32 if given."""
    from PIL import Image

    image = Image.fromarray(
        ((pixels[0, :, 0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    )
    if area is None:
        return image
    width, height = math.sqrt(area * image.width / image.height), math.sqrt(area * image.height / image.width)
    return image.resize((round(width / 32) * 32, round(height / 32) * 32), Image.Resampling.LANCZOS)


def _patch_norm(prediction: Latents) -> Tensor:
    """[batch, 1, 1, h, w]: the norm of each patch of 2 x 2 over all channels."""
    norm = to_tokens(prediction).norm(dim=-1, keepdim=True)
    return from_tokens(norm.expand(-1, -1, 4), prediction.shape[-2])


def _guide(**settings: Any) -> Renormed:
    return Renormed(base=CFG(**settings), norm=_patch_norm)


def build(parts: Parts) -> QwenImage:
    """The family from a checkpoint's parts; what it edits with as the index says."""
    kind, vae = str(parts.index.get("_class_name")), parts["vae"]
    config = parts.configs.get("scheduler", {})
    terminal = config.get("shift_terminal")
    plain = QwenImage(
        transformer=parts["transformer"], vae=vae, text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"],
        path=FlowPath(), defaults=Defaults(
            sampler="euler", schedule="even", steps=50, guidance=4.0, guide=_guide,
            settings={"terminal": terminal} if terminal else {},
            sized=flow_shift(config, token=2 * vae.spatial_compression_ratio)),
    )  # fmt: skip
    if kind == "QwenImagePipeline":
        return plain
    return replace(
        plain, image_processor=parts["processor"].image_processor, several=kind == "QwenImageEditPlusPipeline",
        name="qwen-image-edit", caps=frozenset({"edit", "negative_prompt"}),
    )  # fmt: skip
