"""Tasks on clips against diffusers: drawing over a clip, FreeNoise, prompts that travel, motion LoRA.

diffusers draws the latents of a given clip from the autoencoder's distribution; diffgen takes their mean. So here
diffusers' draw is made to give the mean, and to draw nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.animatediff import pipeline_animatediff_video2video as over
from PIL import Image

import diffgen
from diffgen.pipelines import text_to_video, travel, video_to_video
from tests import tiny_clips
from tests.tiny_clips import agree, ours, picture, theirs

PROMPT, NEGATIVE = "photo of a red apple", "blue house"


@pytest.fixture(autouse=True)
def means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clips.animatediff(tmp_path_factory.mktemp("animatediff"))


def moving(frames: int, width: int, height: int) -> np.ndarray:
    image = picture(width, height)
    return np.stack([np.roll(image, 3 * k, axis=1) for k in range(frames)])


def images(clip: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray((frame * 255).round().astype(np.uint8)) for frame in clip]


def run(
    name: str, folder: Path, clip: np.ndarray, *, steps: int, strength: float, guidance: float, seeds: list[int],
    more: dict[str, Any] | None = None, unpack: Any = None,
) -> None:  # fmt: skip
    height, width = clip.shape[1:3]
    call = dict(
        prompt=PROMPT, negative_prompt=NEGATIVE, width=width, height=height, num_inference_steps=steps,
        guidance_scale=guidance, strength=strength, video=images(clip), **(more or {}),
    )  # fmt: skip
    want = [theirs(getattr(diffusers, name), folder, [seed], unpack=unpack, **call) for seed in seeds]
    options = dict(negative=NEGATIVE, steps=steps, guidance=guidance, strength=strength)
    mine = video_to_video(
        diffgen.load(folder), clip, PROMPT, seed=seeds[0], count=len(seeds), batch=len(seeds), **options
    )
    agree(ours(mine), tuple(np.concatenate(part) for part in zip(*want, strict=True)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("strength", "guidance"), [(0.5, 1.0), (0.8, 7.5)])
def test_animatediff_drawn_over(
    strength: float, guidance: float, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 5 steps: diffusers' DDIM misses its own timesteps by one where the steps do not divide 1000.
    # This one pipeline draws its noise frame by frame, unlike AnimateDiffPipeline.
    def in_our_order(shape: Any, generator: Any, **options: Any) -> torch.Tensor:
        gen = generator[0] if isinstance(generator, list) else generator
        return torch.randn((shape[0], shape[2], shape[1], *shape[3:]), generator=gen).transpose(1, 2)

    monkeypatch.setattr(over, "randn_tensor", in_our_order)
    run("AnimateDiffVideoToVideoPipeline", folder, moving(6, 64, 48), steps=5, strength=strength, guidance=guidance,
        seeds=[3])  # fmt: skip


def test_cogvideox_drawn_over(tmp_path: Path) -> None:
    def turned(latents: torch.Tensor) -> torch.Tensor:
        return latents.transpose(1, 2)

    run("CogVideoXVideoToVideoPipeline", tiny_clips.cogvideox(tmp_path), moving(9, 48, 32), steps=5,
        strength=0.6, guidance=6.0, seeds=[5], unpack=turned)  # fmt: skip


def test_wan_drawn_over(tmp_path: Path) -> None:
    run("WanVideoToVideoPipeline", tiny_clips.wan(tmp_path), moving(9, 48, 32), steps=6, strength=0.7, guidance=5.0,
        seeds=[2])  # fmt: skip


def free_noise(folder: Path, prompt: Any, frames: int, length: int, stride: int, weighting: str) -> Any:
    pipe = diffusers.AnimateDiffPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.enable_free_noise(context_length=length, context_stride=stride, weighting_scheme=weighting)
    call = dict(prompt=prompt, negative_prompt=NEGATIVE, width=64, height=48, num_frames=frames,
                num_inference_steps=4, guidance_scale=7.5)  # fmt: skip
    # Shuffling takes one generator, not a list.
    latents = pipe(**call, generator=torch.Generator().manual_seed(3), output_type="latent").frames
    pixels = pipe(**call, generator=torch.Generator().manual_seed(3), output_type="np").frames
    return latents.numpy(), pixels


OPTIONS = dict(negative=NEGATIVE, size=(64, 48), steps=4, guidance=7.5, seed=3)


@pytest.mark.parametrize(("weighting", "theirs_"), [("pyramid", "pyramid"), ("flat", "flat")])
def test_free_noise(weighting: str, theirs_: str, folder: Path) -> None:
    settings = {"context": 6, "context_overlap": 4, "context_weights": weighting, "context_method": "attention"}
    mine = text_to_video(diffgen.load(folder), PROMPT, frames=12, settings=settings, **OPTIONS)  # type: ignore[arg-type]
    agree(ours(mine), free_noise(folder, PROMPT, 12, 6, 2, theirs_))


def test_prompts_that_travel(folder: Path) -> None:
    settings = {"context": 6, "context_overlap": 4, "context_method": "attention"}
    stations = "0f: photo of a red apple; 5f: a blue cat; 9f: the house"
    mine = travel(diffgen.load(folder), stations, frames=12, settings=settings, **OPTIONS)  # type: ignore[arg-type]
    prompts = {0: "photo of a red apple", 5: "a blue cat", 9: "the house"}
    agree(ours(mine), free_noise(folder, prompts, 12, 6, 2, "pyramid"))


def motion_lora(folder: Path, rank: int = 2) -> Path:
    """A motion LoRA as diffusers saves and the hub holds them: attention of the motion modules only."""
    from safetensors.torch import save_file

    adapter = diffusers.AnimateDiffPipeline.from_pretrained(folder, local_files_only=True).unet
    gen = torch.Generator().manual_seed(0)
    tensors = {}
    for name, module in adapter.named_modules():
        if "motion_modules" in name and name.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            place = name.removesuffix(".0").rpartition(".")
            key = f"unet.{place[0]}.processor.{place[2]}_lora"
            tensors[f"{key}.down.weight"] = torch.randn(rank, module.in_features, generator=gen)
            tensors[f"{key}.up.weight"] = torch.randn(module.out_features, rank, generator=gen)
    file = folder.parent / f"{folder.name}-motion-lora.safetensors"
    save_file(tensors, file)
    return file


@pytest.mark.parametrize("joined", [True, False])
def test_motion_lora(joined: bool, folder: Path, tmp_path: Path) -> None:
    lora = motion_lora(folder)
    pipe = diffusers.AnimateDiffPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name="zoom")
    pipe.set_adapters(["zoom"], [0.7])
    call = dict(prompt=PROMPT, negative_prompt=NEGATIVE, width=64, height=48, num_frames=5, num_inference_steps=4,
                guidance_scale=7.5)  # fmt: skip
    want = [
        pipe(**call, generator=[torch.Generator().manual_seed(3)], output_type=kind).frames for kind in ("latent", "np")
    ]
    place = folder if joined else tiny_clips.animatediff(tmp_path, joined=False)
    mine = text_to_video(diffgen.load(place), PROMPT, frames=5, adapters=[f"{lora}:0.7"], **OPTIONS)  # type: ignore[arg-type]
    agree(ours(mine), (want[0].numpy(), want[1]))
    plain = text_to_video(diffgen.load(place), PROMPT, frames=5, **OPTIONS)  # type: ignore[arg-type]
    assert np.abs(plain[0].pixels - mine[0].pixels).max() > 1e-3
