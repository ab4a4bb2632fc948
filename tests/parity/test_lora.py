"""LoRAs in every layout that diffusers reads, against diffusers' own loader: same file, same picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import diffgen
from diffgen.adapters import Adapter
from diffgen.adapters.names import names_of, unet_names
from diffgen.pipelines import text_to_image, text_to_video
from tests import tiny_a, tiny_clips
from tests.parity.harness import difference
from tests.parity.test_stable_diffusion import WALKS
from tests.tiny_b import ours
from tests.tiny_lora import ATTENTION, CONVOLUTIONS, TEXT, Pairs, drawn, kohya, loaded, pairs, peft, renamed, write

# The issue's own limit for the effect, relative where the latents are large; 1e-4 is for whole pipelines.
TOLERANCE = 1e-5
PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat"
CALL = dict(negative_prompt=NEGATIVE, num_inference_steps=3, width=64, height=64)
MINE = dict(negative=NEGATIVE, steps=3, size=(64, 64))
DDIM = WALKS["ddim"][2]


def networks(folder: Path) -> dict[str, Any]:
    return dict(diffgen.load(folder).family.components)


def same(got: np.ndarray, want: np.ndarray, without: np.ndarray) -> None:
    assert difference(got, without) > 1e-2, "a LoRA without effect proves nothing"
    worst = difference(got, want)
    print(f"difference {worst:.1e}")
    assert worst < TOLERANCE


def with_text_model(layers: Pairs) -> Pairs:
    """The names that CLIP's layers had, and have in every published file."""
    return {name if name.startswith("text_model.") else f"text_model.{name}": pair for name, pair in layers.items()}


def sd_files(folder: Path, where: Path) -> dict[str, Path]:
    parts = networks(folder)
    unet, text = pairs(parts["denoiser"], ATTENTION + CONVOLUTIONS), pairs(parts["text_encoder"], TEXT, seed=1)
    attention = {name: pair for name, pair in unet.items() if ".attn" in name}
    old = {}
    for name, (down, up) in attention.items():
        owner, _, layer = name.removesuffix(".0").rpartition(".")
        stem = f"unet.{owner}.processor.{layer}_lora"
        old |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    stated = json.dumps({"unet.r": 3, "unet.lora_alpha": 6, "unet.target_modules": sorted(attention)})
    return {
        "peft": write(where / "peft.safetensors", peft(unet, "unet") | peft(with_text_model(text), "text_encoder")),
        "peft, alpha stated": write(
            where / "stated.safetensors", peft(attention, "unet"), lora_adapter_metadata=stated
        ),
        "processors": write(where / "old.safetensors", old),
        "kohya": write(
            where / "kohya.safetensors", kohya(unet, "lora_unet") | kohya(with_text_model(text), "lora_te")
        ),
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["peft", "peft, alpha stated", "processors", "kohya"])
def test_stable_diffusion(layout: str, sd_folder: Path, tmp_path: Path) -> None:
    file = sd_files(sd_folder, tmp_path)[layout]
    want, _ = drawn(sd_folder, {file: 1.0}, [3, 4], PROMPT, guidance_scale=3.0, **CALL)
    got, _ = ours(sd_folder, [3, 4], PROMPT, guidance=3.0, adapters=[file], **MINE, **DDIM)
    without, _ = ours(sd_folder, [3, 4], PROMPT, guidance=3.0, **MINE, **DDIM)
    same(got, want, without)


def test_two_at_once_with_strengths_of_their_own(sd_folder: Path, tmp_path: Path) -> None:
    files = sd_files(sd_folder, tmp_path)
    unet = pairs(networks(sd_folder)["denoiser"], ATTENTION, seed=7, rank=2)
    second = write(tmp_path / "second.safetensors", peft(unet, "unet"))
    strengths = {files["kohya"]: {"unet": 0.7, "text_encoder": 0.3}, second: -0.4}
    want, _ = drawn(sd_folder, strengths, [3], PROMPT, guidance_scale=3.0, **CALL)
    adapters = [Adapter(files["kohya"], strength=0.7, text_strength=0.3), f"{second}:-0.4"]
    got, _ = ours(sd_folder, [3], PROMPT, guidance=3.0, adapters=adapters, **MINE, **DDIM)
    without, _ = ours(sd_folder, [3], PROMPT, guidance=3.0, adapters=[files["kohya"]], **MINE, **DDIM)
    same(got, want, without)


def test_dora(sd_folder: Path, tmp_path: Path) -> None:
    unet = pairs(networks(sd_folder)["denoiser"], ATTENTION)
    tensors = peft(unet, "unet")
    for name, (_, up) in unet.items():
        random = torch.Generator().manual_seed(len(name))
        tensors[f"unet.{name}.lora_magnitude_vector.weight"] = torch.rand(up.shape[0], generator=random) + 0.5
    linear = {key: tensor for key, tensor in tensors.items() if "proj_in" not in key and "proj_out" not in key}
    file = write(tmp_path / "dora.safetensors", linear)
    want, _ = drawn(sd_folder, {file: 1.0}, [3], PROMPT, guidance_scale=3.0, **CALL)
    got, _ = ours(sd_folder, [3], PROMPT, guidance=3.0, adapters=[file], **MINE, **DDIM)
    without, _ = ours(sd_folder, [3], PROMPT, guidance=3.0, **MINE, **DDIM)
    same(got, want, without)


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.mark.parametrize("layout", ["peft", "kohya", "kohya, latent-diffusion's names"])
def test_sdxl(layout: str, xl: Path, tmp_path: Path) -> None:
    parts = networks(xl)
    unet = pairs(parts["denoiser"], ATTENTION + CONVOLUTIONS)
    texts = {name: with_text_model(pairs(parts[name], TEXT, seed=2)) for name in ("text_encoder", "text_encoder_2")}
    if layout == "peft":
        tensors = peft(unet, "unet")
        for name, layers in texts.items():
            tensors |= peft(layers, name)
    else:
        names = {} if layout == "kohya" else {layer: name for name, layer in unet_names(unet)}
        tensors = kohya(renamed(unet, names), "lora_unet")
        for prefix, layers in zip(("lora_te1", "lora_te2"), texts.values(), strict=True):
            tensors |= kohya(layers, prefix)
    file = write(tmp_path / "file.safetensors", tensors)
    want, _ = drawn(xl, {file: 0.8}, [3, 4], PROMPT, guidance_scale=5.0, **CALL)
    got, _ = ours(xl, [3, 4], PROMPT, guidance=5.0, adapters=[f"{file}:0.8"], **MINE)
    without, _ = ours(xl, [3, 4], PROMPT, guidance=5.0, **MINE)
    same(got, want, without)


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.flux(tmp_path_factory.mktemp("flux"))


def authors(network: Any, *, skip: tuple[str, ...] = (), size: float = 0.2) -> Pairs:
    """(down, up) for every linear layer under the authors' names, the fused ones whole, save those that begin so."""
    random = torch.Generator().manual_seed(5)
    linear = {name: module for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    found = {}
    for name, pieces in names_of(network).dotted.items():
        layer = pieces[0].layer
        if name == layer or layer not in linear or name.endswith(".to_out") or name.startswith(skip):
            continue
        rows, columns = sum(piece.rows for piece in pieces), linear[layer].weight.shape[1]
        found[name] = torch.randn(3, columns, generator=random) * size, torch.randn(rows, 3, generator=random) * size
    return found


@pytest.mark.parametrize("layout", ["peft", "kohya", "comfyui"])
def test_flux(layout: str, flux: Path, tmp_path: Path) -> None:
    parts = networks(flux)
    text = with_text_model(pairs(parts["text_encoder"], TEXT, seed=1))
    if layout == "peft":
        endings = (*ATTENTION, "add_q_proj", "to_add_out", "proj_mlp", "norm.linear")
        tensors = peft(pairs(parts["denoiser"], endings), "transformer") | peft(text, "text_encoder")
    else:
        # diffusers loses the layers outside of the blocks; test_adapters_run.py has them.
        own = authors(parts["denoiser"], skip=("img_in", "txt_in", "time", "vector", "guidance", "final_layer"))
        # It knows Flux's own size by heart, and cannot cut this layer of a smaller network.
        own = {name: pair for name, pair in own.items() if not name.endswith("linear1")}
        if layout == "kohya":
            tensors = kohya(own, "lora_unet") | kohya(text, "lora_te1")
        else:
            tensors = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): value
                       for key, value in peft(own, "diffusion_model").items()}  # fmt: skip
    file = write(tmp_path / "file.safetensors", tensors)
    want, _ = drawn(flux, {file: 0.9}, [3, 4], PROMPT, num_inference_steps=3, guidance_scale=3.5, width=64, height=64)
    mine = dict(guidance=3.5, steps=3, size=(64, 64))
    got, _ = ours(flux, [3, 4], PROMPT, adapters=[Adapter(file, strength=0.9)], **mine)
    without, _ = ours(flux, [3, 4], PROMPT, **mine)
    same(got, tiny_a.unpacked(want, 64, 64), without)


@pytest.mark.parametrize("layout", ["peft", "musubi", "comfyui"])
def test_wan(layout: str, tmp_path: Path) -> None:
    folder = tiny_clips.wan(tmp_path / "wan")
    model = diffgen.load(folder)
    own = authors(model.family.components["denoiser"], skip=("head", "time", "text", "img_emb"))
    if layout == "peft":
        endings = (*ATTENTION, "ffn.net.0.proj", "ffn.net.2")
        tensors = peft(pairs(model.family.components["denoiser"], endings), "transformer")
    else:
        tensors = kohya(own, "lora_unet") if layout == "musubi" else peft(own, "diffusion_model")
    file = write(tmp_path / "file.safetensors", tensors)
    transformer = loaded(folder, {file: 0.8})["transformer"]

    class Pipeline(diffusers.WanPipeline):
        @classmethod
        def from_pretrained(cls, folder: Path, **options: Any) -> Any:
            return diffusers.WanPipeline.from_pretrained(folder, transformer=transformer, **options)

    call = dict(prompt=[PROMPT], negative_prompt=[NEGATIVE], width=32, height=32, num_frames=5, num_inference_steps=3)
    want, _ = tiny_clips.theirs(Pipeline, folder, [3], guidance_scale=4.0, **call)
    mine = dict(seed=3, negative=NEGATIVE, size=(32, 32), frames=5, steps=3, guidance=4.0)
    got, _ = tiny_clips.ours(text_to_video(model, PROMPT, adapters=[f"{file}:0.8"], **mine))
    without, _ = tiny_clips.ours(text_to_video(model, PROMPT, **mine))
    same(got, want, without)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["a word of its own", "the file's name"])
def test_textual_inversion(kind: str, count: int, sd_folder: Path, tmp_path: Path) -> None:
    vectors = torch.randn(count, 32, generator=torch.Generator().manual_seed(0))
    if kind == "a word of its own":
        word, file = "<apple-style>", write(tmp_path / "learned_embeds.safetensors", {"<apple-style>": vectors})
    else:
        word, file = "my-style", write(tmp_path / "my-style.safetensors", {"emb_params": vectors})
    prompt = f"a photo of {word}, red"
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd_folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_textual_inversion({word: vectors}, token=word)
    call = dict(num_inference_steps=3, guidance_scale=3.0, width=64, height=64, negative_prompt=NEGATIVE)
    want = pipe(prompt, generator=torch.Generator().manual_seed(3), output_type="latent", **call).images.numpy()
    got, _ = ours(sd_folder, [3], prompt, guidance=3.0, adapters=[file], **MINE, **DDIM)
    without, _ = ours(sd_folder, [3], prompt, guidance=3.0, **MINE, **DDIM)
    same(got, want, without)


def test_textual_inversion_of_both_encoders(xl: Path, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    vectors = {"clip_l": torch.randn(2, 32, generator=random), "clip_g": torch.randn(2, 24, generator=random)}
    file = write(tmp_path / "both.safetensors", vectors)
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(xl, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    for part, suffix in (("clip_l", ""), ("clip_g", "_2")):
        parts = {name: getattr(pipe, name + suffix) for name in ("text_encoder", "tokenizer")}
        pipe.load_textual_inversion({"both": vectors[part]}, token="both", **parts)
    call = dict(num_inference_steps=3, guidance_scale=5.0, width=64, height=64, negative_prompt=NEGATIVE)
    prompt = "a photo of both on the house"
    want = pipe(prompt, generator=torch.Generator().manual_seed(3), output_type="latent", **call).images.numpy()
    got, _ = ours(xl, [3], prompt, guidance=5.0, adapters=[file], **MINE)
    without, _ = ours(xl, [3], prompt, guidance=5.0, **MINE)
    same(got, want, without)


def test_nothing_stays_behind(sd_folder: Path, tmp_path: Path) -> None:
    file = sd_files(sd_folder, tmp_path)["kohya"]
    model = diffgen.load(sd_folder)
    before = text_to_image(model, PROMPT, seed=3, **MINE, **DDIM)[0].pixels
    changed = text_to_image(model, PROMPT, seed=3, adapters=[file], **MINE, **DDIM)[0].pixels
    after = text_to_image(model, PROMPT, seed=3, **MINE, **DDIM)[0].pixels
    assert np.array_equal(before, after) and not np.array_equal(before, changed)
