"""Model families: what each kind of checkpoint means. One file a family, imported only when it is needed.

A family module offers `build(parts) -> Family`. The table below is the one place that names them all.
"""

from __future__ import annotations

from importlib import import_module

from diffgen.contracts import Family
from diffgen.errors import CheckpointError
from diffgen.families.common import Parts

# The pipeline class that a diffusers folder names in its model_index.json, and the module that knows it.
PIPELINES: dict[str, str] = {
    "AnimateDiffPipeline": "animatediff",
    "ChromaPipeline": "chroma",
    "FluxFillPipeline": "flux",
    "FluxKontextPipeline": "flux",
    "FluxPipeline": "flux",
    "AuraFlowPipeline": "auraflow",
    "Flux2KleinPipeline": "flux2",
    "Flux2Pipeline": "flux2",
    "Lumina2Pipeline": "lumina2",
    "PixArtSigmaPipeline": "pixart",
    "QwenImageEditPipeline": "qwen_image",
    "QwenImageEditPlusPipeline": "qwen_image",
    "QwenImagePipeline": "qwen_image",
    "SanaPipeline": "sana",
    "SanaSprintPipeline": "sana",
    "ZImagePipeline": "z_image",
    "StableDiffusion3Pipeline": "sd3",
    "StableDiffusionInpaintPipeline": "stable_diffusion",
    "StableDiffusionInstructPix2PixPipeline": "stable_diffusion",
    "StableDiffusionPipeline": "stable_diffusion",
    "StableVideoDiffusionPipeline": "svd",
    "CogVideoXImageToVideoPipeline": "cogvideox",
    "CogVideoXPipeline": "cogvideox",
    "HunyuanSkyreelsImageToVideoPipeline": "hunyuan_video",
    "HunyuanVideoPipeline": "hunyuan_video",
    "LTXImageToVideoPipeline": "ltx",
    "LTXPipeline": "ltx",
    "StableDiffusionXLImg2ImgPipeline": "sdxl",
    "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusionXLPipeline": "sdxl",
    "MochiPipeline": "mochi",
    "WanImageToVideoPipeline": "wan",
    "WanPipeline": "wan",
}


def build(parts: Parts) -> Family:
    """The family of a checkpoint's parts.

    Raises:
        CheckpointError: diffgen has no family for this pipeline class.
    """
    kind = str(parts.index.get("_class_name") or "nameless pipeline")
    if kind not in PIPELINES:
        raise CheckpointError(f"{parts.origin} holds a {kind}; accepted: {', '.join(sorted(PIPELINES))}")
    family: Family = import_module(f"diffgen.families.{PIPELINES[kind]}").build(parts)
    return family
