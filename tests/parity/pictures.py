"""The picture families: a row for each variant, in the order of the issue's list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from torch import Tensor

from diffgen.checkpoints.redux import load_redux
from diffgen.families import qwen_image
from tests import tiny, tiny_a, tiny_b
from tests.parity.harness import PROMPT, Run, Variant, mask, picture, pil, without

BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
WIDE = ((96, 64), (64, 96))
LOUD = "Photo of a RED apple"  # some families lower it
MARKED = "photo of a red apple, big and <round>"


def tokens(latents: Tensor, run: Run) -> Tensor:
    """Tokens of 2 x 2 latents [n, h / 2 * w / 2, 4 c] as latents [n, c, 1, h, w]."""
    rows, columns = run.size[1] // 16, run.size[0] // 16
    apart = latents.unflatten(1, (rows, columns)).unflatten(-1, (-1, 2, 2)).permute(0, 3, 1, 4, 2, 5)
    return apart.flatten(4).flatten(2, 3)


def cells(latents: Tensor, run: Run) -> Tensor:
    """Tokens of one latent each [n, h * w, c] as latents [n, c, 1, h, w]."""
    return latents.transpose(1, 2).unflatten(2, (run.size[1] // 16, run.size[0] // 16))


@contextmanager
def modes() -> Iterator[None]:
    """diffusers samples a conditioning picture's latents from the picture's seed; diffgen takes their mode."""
    with patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()):
        yield


@contextmanager
def chroma_mask() -> Iterator[None]:
    """diffusers hands the mask to attention as numbers, which are added there: nothing is hidden (its #12116)."""
    before = diffusers.ChromaPipeline._prepare_attention_mask

    def repaired(self: Any, *args: Any, **options: Any) -> Any:
        found = before(self, *args, **options)
        return None if found is None else found.bool()

    with patch.object(diffusers.ChromaPipeline, "_prepare_attention_mask", repaired):
        yield


@contextmanager
def small_pictures() -> Iterator[None]:
    """Qwen's pipelines make every picture about a million pixels; tiny ones do here."""
    edit, plus = pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
    with (
        patch.object(edit, "calculate_dimensions", lambda area, ratio: (96, 64, None)),
        patch.object(plus, "VAE_IMAGE_SIZE", 96 * 64),
        patch.object(plus, "CONDITION_IMAGE_SIZE", 128 * 128),
        patch.object(qwen_image, "SHOWN_AREA", 128 * 128),
    ):
        yield


def filled(run: Run) -> Mapping[str, Tensor]:
    return {"image": picture(*run.size), "mask": mask(*run.size)}


def fill(pipe: Any, run: Run) -> Mapping[str, Any]:
    return {"image": pil(picture(*run.size)), "mask_image": pil(mask(*run.size))}


def same_size(run: Run) -> Mapping[str, Tensor]:
    return {"reference": picture(*run.size)}


def other_sizes(run: Run) -> Mapping[str, Tensor]:
    return {"reference": picture(80, 64, seed=1), "reference_2": picture(64, 96, seed=2)}


def pictures_of(sizes: Any) -> Any:
    """`image` of a pipeline: what `sizes` attaches, in order."""
    return lambda pipe, run: {"image": [pil(seen) for seen in sizes(run).values()]}


def refined(pipe: Any, run: Run) -> Mapping[str, Any]:
    """The refiner begins with a picture. At full strength nothing is left of it but the noise, given by hand."""
    shape = 1, 4, run.size[1] // 8, run.size[0] // 8
    noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in run.seeds])
    pipe.scheduler.set_timesteps(4)
    images = [pil(picture(*run.size))] * run.batch
    return {
        "image": images,
        "strength": 1.0,
        "latents": noise * pipe.scheduler.init_noise_sigma,
        **without("width", "height"),
    }


def kontext(pipe: Any, run: Run) -> Mapping[str, Any]:
    return {"image": pil(picture(80, 32)), "max_area": run.size[0] * run.size[1], "_auto_resize": False}


@cache
def redux() -> tuple[Any, Any]:
    """Redux as diffgen and as diffusers load it."""
    with TemporaryDirectory() as folder:
        tiny_a.redux(Path(folder))
        return load_redux(folder), diffusers.FluxPriorReduxPipeline.from_pretrained(folder, local_files_only=True)


def varied(run: Run) -> Mapping[str, Tensor]:
    return {"vision": redux()[0].look(picture(80, 48))}


def variation(pipe: Any, run: Run) -> Mapping[str, Any]:
    """Redux's tokens behind the prompt's, as the prior pipeline joins them."""
    with torch.inference_mode():
        hidden, pooled, _ = pipe.encode_prompt(PROMPT)
        seen = redux()[1].encode_image(pil(picture(80, 48)), torch.device("cpu"), 1)
        tokens = redux()[1].image_embedder(seen).image_embeds
    embeds = {"prompt_embeds": torch.cat([hidden, tokens], dim=1), "pooled_prompt_embeds": pooled}
    rows = {name: tensor.repeat(run.batch, *[1] * (tensor.ndim - 1)) for name, tensor in embeds.items()}
    return {**rows, **without("prompt")}


def few(kind: str, **options: Any) -> Any:
    """An SDXL student of few steps, published with the scheduler `kind`."""
    scheduler = getattr(diffusers, kind)(**BETAS, **options)
    return lambda folder: tiny_a.sdxl(folder, scheduler=scheduler)


def shown(run: Run) -> list[Tensor]:
    return [picture(96, 64)]


def several(run: Run) -> list[Tensor]:
    return [picture(96, 64), picture(64, 96, seed=1)]


def seen(looked_at: Any) -> Any:
    return lambda run: {f"reference_{k}" if k > 1 else "reference": one for k, one in enumerate(looked_at(run), 1)}


def looks(looked_at: Any) -> Any:
    """`image` of Qwen's edit pipelines: one picture, or several."""

    def call(pipe: Any, run: Run) -> Mapping[str, Any]:
        images = [pil(one) for one in looked_at(run)]
        return {"image": images if len(images) > 1 else images[0]}

    return call


def processor(folder: Path) -> Mapping[str, Any]:
    return {"processor": tiny_b.qwen_processor(folder / "processor")}


SD2 = partial(
    tiny.stable_diffusion, prediction="v_prediction", pad="!",
    scheduler={"rescale_betas_zero_snr": False, "timestep_spacing": "trailing"},
)  # fmt: skip
DEV = dict(pipeline="FluxPipeline", unpack=tokens, scales=(3.5, 2.0), true_cfg=3.0)
QWEN = dict(prompt=MARKED, unpack=tokens, scale="true_cfg_scale", scales=(1.0, 3.0))
EDITS = dict(QWEN, task="edit", components=processor, around=small_pictures)
SANA = dict(pipeline="SanaPipeline", sizes=WIDE, call={"use_resolution_binning": False}, prompt=LOUD)
SPRINT = dict(
    family="Sana", make=partial(tiny_b.sana, kind="sprint"), pipeline="SanaSprintPipeline", sizes=WIDE,
    scales=(1.0, 4.5), negative=None, twice=True, prompt=LOUD,
)  # fmt: skip

PICTURES: tuple[Variant, ...] = (
    Variant(family="Stable Diffusion", variant="1.5", make=tiny.stable_diffusion, pipeline="StableDiffusionPipeline"),
    Variant(family="Stable Diffusion", variant="2.1 (v)", make=SD2, pipeline="StableDiffusionPipeline"),
    Variant(
        family="Stable Diffusion", variant="inpainting", task="inpaint", visual=filled, call=fill, around=modes,
        make=partial(tiny_a.sd_variant, pipeline="StableDiffusionInpaintPipeline"),
        pipeline="StableDiffusionInpaintPipeline",
    ),
    Variant(
        family="Stable Diffusion", variant="InstructPix2Pix", task="edit", visual=same_size, scales=(1.0, 7.5),
        make=partial(tiny_a.sd_variant, pipeline="StableDiffusionInstructPix2PixPipeline"),
        pipeline="StableDiffusionInstructPix2PixPipeline", options={"settings": {"image_guidance": 1.2}},
        call=lambda pipe, run: {
            "image": [pil(picture(*run.size))] * run.batch, "image_guidance_scale": 1.2, **without("width", "height")
        },
    ),
    Variant(family="SDXL", variant="base", make=tiny_a.sdxl, pipeline="StableDiffusionXLPipeline"),
    Variant(
        family="SDXL", variant="base, empty negative", make=tiny_a.sdxl, pipeline="StableDiffusionXLPipeline",
        negative=None,
    ),
    Variant(
        family="SDXL", variant="base, told a size and a crop", make=tiny_a.sdxl, pipeline="StableDiffusionXLPipeline",
        options={"settings": {"original_size": [512, 640], "crop": [32, 96], "target_size": [256, 128]}},
        # diffusers counts height and top first.
        call={"original_size": (640, 512), "crops_coords_top_left": (96, 32), "target_size": (128, 256)},
    ),
    Variant(
        family="SDXL", variant="base, an earlier layer of CLIP", make=tiny_a.sdxl, options={"settings": {"clip_skip": 3}},
        pipeline="StableDiffusionXLPipeline", call={"clip_skip": 1},
        scales=(1.0, 1.0),  # diffusers takes the unwanted prompt from the usual layer still
    ),
    Variant(
        family="SDXL", variant="refiner", task="image_to_image", visual=lambda run: {}, call=refined,
        make=partial(tiny_a.sdxl, pipeline="StableDiffusionXLImg2ImgPipeline", refiner=True),
        pipeline="StableDiffusionXLImg2ImgPipeline",
    ),
    Variant(
        family="SDXL", variant="inpainting", task="inpaint", visual=filled, around=modes,
        make=partial(tiny_a.sdxl, pipeline="StableDiffusionXLInpaintPipeline", in_channels=9),
        pipeline="StableDiffusionXLInpaintPipeline", call=lambda pipe, run: {**fill(pipe, run), "strength": 1.0},
    ),
    Variant(
        family="SDXL", variant="turbo", make=few("EulerAncestralDiscreteScheduler", timestep_spacing="trailing"),
        pipeline="StableDiffusionXLPipeline", scales=(1.0, 2.0),
    ),
    Variant(
        family="SDXL", variant="lightning", make=few("EulerDiscreteScheduler", timestep_spacing="trailing"),
        pipeline="StableDiffusionXLPipeline", scales=(1.0, 2.0),
    ),
    Variant(
        family="SDXL", variant="LCM", make=few("LCMScheduler", set_alpha_to_one=True), steps=5,
        pipeline="StableDiffusionXLPipeline", scales=(1.0, 2.0),
    ),
    Variant(
        family="Stable Diffusion 3", variant="3", make=tiny_a.sd3, pipeline="StableDiffusion3Pipeline",
    ),
    Variant(
        family="Stable Diffusion 3", variant="3.5 medium", pipeline="StableDiffusion3Pipeline",
        make=partial(tiny_a.sd3, network={"qk_norm": "rms_norm", "dual_attention_layers": (0,)}),
    ),
    Variant(
        family="Stable Diffusion 3", variant="without T5, growing shift", pipeline="StableDiffusion3Pipeline",
        make=partial(tiny_a.sd3, t5=False, use_dynamic_shifting=True),
        # diffusers leaves absent parts out of the index, and then asks for them.
        components=lambda folder: {"text_encoder_3": None, "tokenizer_3": None},
    ),
    Variant(family="Flux.1", variant="dev", make=tiny_a.flux, **DEV),
    Variant(
        family="Flux.1", variant="dev with Redux", make=tiny_a.flux, visual=varied, call=variation,
        **{**DEV, "negative": None, "true_cfg": None},
    ),
    Variant(
        family="Flux.1", variant="schnell", make=partial(tiny_a.flux, distilled=False), pipeline="FluxPipeline",
        unpack=tokens, scale="true_cfg_scale", scales=(1.0, 3.0),
        call={"guidance_scale": 0.0, "max_sequence_length": 256},
    ),
    Variant(
        family="Flux.1", variant="Fill", make=partial(tiny_a.flux, pipeline="FluxFillPipeline"), task="inpaint",
        pipeline="FluxFillPipeline", scales=(1.0, 30.0), negative=None, visual=filled, call=fill, around=modes,
        unpack=tokens,
    ),
    Variant(
        family="Flux.1", variant="Kontext", make=partial(tiny_a.flux, pipeline="FluxKontextPipeline"), task="edit",
        visual=lambda run: {"reference": picture(80, 32)}, call=kontext, **{**DEV, "pipeline": "FluxKontextPipeline"},
    ),
    Variant(
        family="Flux.1", variant="Kontext without a picture", make=partial(tiny_a.flux, pipeline="FluxKontextPipeline"),
        call=lambda pipe, run: {"max_area": run.size[0] * run.size[1]}, **{**DEV, "pipeline": "FluxKontextPipeline"},
    ),
    Variant(family="Flux.2", variant="dev", make=partial(tiny_b.flux2, kind="dev"), pipeline="Flux2Pipeline",
            negative=None, unpack=cells, scales=(1.0, 4.0)),
    Variant(family="Flux.2", variant="dev, two references", make=partial(tiny_b.flux2, kind="dev"), task="edit",
            pipeline="Flux2Pipeline", negative=None, unpack=cells, scales=(1.0, 4.0), visual=other_sizes,
            call=pictures_of(other_sizes)),
    Variant(family="Flux.2", variant="Klein", make=tiny_b.flux2, pipeline="Flux2KleinPipeline", negative=None,
            unpack=cells, scales=(1.0, 1.0)),
    Variant(family="Flux.2", variant="Klein base", make=partial(tiny_b.flux2, kind="base"), negative=None,
            pipeline="Flux2KleinPipeline", unpack=cells),
    Variant(family="Flux.2", variant="Klein base, two references", make=partial(tiny_b.flux2, kind="base"),
            pipeline="Flux2KleinPipeline", task="edit", negative=None, unpack=cells, visual=other_sizes,
            call=pictures_of(other_sizes)),
    Variant(
        family="PixArt-Sigma", variant="", make=tiny_b.pixart, pipeline="PixArtSigmaPipeline", twice=True, prompt=LOUD,
        call={"clean_caption": False, "use_resolution_binning": False},
    ),
    Variant(family="Sana", variant="DPM-Solver", make=tiny_b.sana, **SANA),
    Variant(family="Sana", variant="Euler", make=partial(tiny_b.sana, kind="euler"), **SANA),
    Variant(
        variant="Sprint", steps=2, call={"use_resolution_binning": False, "intermediate_timesteps": 1.3}, **SPRINT
    ),
    Variant(
        variant="Sprint, one step", steps=1, call={"use_resolution_binning": False, "intermediate_timesteps": None},
        **SPRINT,
    ),
    Variant(
        variant="Sprint, four steps", steps=4, call={"use_resolution_binning": False, "intermediate_timesteps": None},
        **SPRINT,
    ),
    Variant(family="Qwen-Image", variant="", make=tiny_b.qwen_image, pipeline="QwenImagePipeline", **QWEN),
    Variant(
        family="Qwen-Image", variant="Edit", make=partial(tiny_b.qwen_image, kind="QwenImageEditPipeline"),
        pipeline="QwenImageEditPipeline", looked_at=shown, visual=seen(shown), call=looks(shown), repeat=True, **EDITS,
    ),
    Variant(
        family="Qwen-Image", variant="Edit Plus (2509), two pictures", looked_at=several, visual=seen(several),
        make=partial(tiny_b.qwen_image, kind="QwenImageEditPlusPipeline"), repeat=True,
        pipeline="QwenImageEditPlusPipeline", call=looks(several), **EDITS,
    ),
    Variant(
        family="Qwen-Image", variant="Edit Plus (2511), two pictures", looked_at=several, visual=seen(several),
        make=partial(tiny_b.qwen_image, kind="QwenImageEditPlusPipeline", zero_cond_t=True), repeat=True,
        pipeline="QwenImageEditPlusPipeline", call=looks(several), **EDITS,
    ),
    Variant(family="Z-Image", variant="Turbo", make=tiny_b.z_image, pipeline="ZImagePipeline", scales=(0.0, 4.0),
            prompt=MARKED),
    Variant(
        family="Z-Image", variant="base, growing shift", pipeline="ZImagePipeline", scales=(0.0, 4.0),
        make=partial(tiny_b.z_image, shift=6.0, use_dynamic_shifting=True),
    ),
    Variant(
        family="Chroma", variant="", make=tiny_a.chroma, pipeline="ChromaPipeline", unpack=tokens, around=chroma_mask,
        negative="the blue cat on a big house",
    ),
    Variant(family="Lumina 2", variant="", make=tiny_b.lumina2, pipeline="Lumina2Pipeline"),
    Variant(family="AuraFlow", variant="", make=tiny_b.auraflow, pipeline="AuraFlowPipeline"),
)  # fmt: skip
