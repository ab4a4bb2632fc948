"""Random LoRA files for the tiny checkpoints, in the layouts that tools write, and diffusers drawing with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

# What LoRAs are trained on: attention, feed-forward and, for LoCon, convolutions.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

Pairs = dict[str, tuple[Tensor, Tensor]]


def pairs(network: Any, endings: Sequence[str], *, seed: int = 0, rank: int = 3, size: float = 0.2) -> Pairs:
    """(down, up) for every layer whose name ends so, by its name."""
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name, module in network.named_modules():
        if name.endswith(tuple(endings)) and getattr(module, "weight", None) is not None:
            out, *into = module.weight.shape
            down = torch.randn(rank, *into, generator=random) * size
            found[name] = down, torch.randn(out, rank, *[1] * (len(into) - 1), generator=random) * size
    return found


def peft(layers: Pairs, prefix: str) -> dict[str, Tensor]:
    """As diffusers saves a LoRA today."""
    found = {}
    for name, (down, up) in layers.items():
        found |= {f"{prefix}.{name}.lora_A.weight": down, f"{prefix}.{name}.lora_B.weight": up}
    return found


def kohya(layers: Pairs, prefix: str, *, alpha: float | None = 2.0) -> dict[str, Tensor]:
    """As kohya's and most other trainers save one."""
    found = {}
    for name, (down, up) in layers.items():
        flat = f"{prefix}_{name.replace('.', '_')}"
        found |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        if alpha is not None:
            found[f"{flat}.alpha"] = torch.tensor(alpha)
    return found


def renamed(layers: Pairs, names: Mapping[str, str]) -> Pairs:
    """The same layers under the names that `names` gives for them; others keep theirs."""
    return {names.get(name, name): pair for name, pair in layers.items()}


def write(file: Path, tensors: Mapping[str, Tensor], **texts: str) -> Path:
    """A safetensors file of them."""
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file, metadata=texts or None)
    return file


def reference(
    folder: Path, seeds: list[int], prompt: str, *, twice: bool = False, repeat: bool = False,
    components: dict[str, Any] | None = None, **call: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """(latents as the pipeline holds them after its last step, pixels [n, h, w, 3]) of diffusers' own pipeline.

    `twice` is for pipelines whose callback does not see the last latents: one run for each. `repeat` is for
    those that cannot take several prompts: one prompt, several pictures. `components` replace the folder's.
    """
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **(components or {}))
    pipe.set_progress_bar_config(disable=True)
    kept = []

    def keep(_pipe: Any, _i: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.append(values["latents"].clone())
        return values

    texts = {"prompt": prompt, **{name: call.pop(name) for name in ["negative_prompt"] if name in call}}
    if repeat:
        call["num_images_per_prompt"] = len(seeds)
    else:
        texts = {name: [text] * len(seeds) for name, text in texts.items()}

    def run(**options: Any) -> Any:
        gens = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        return pipe(**texts, generator=gens, **call, **options).images

    if twice:
        return run(output_type="latent").numpy(), run(output_type="np")
    pixels = run(output_type="np", callback_on_step_end=keep)
    return kept[-1].numpy(), pixels


def drawn(
    folder: Path, files: Mapping[Path, Any], seeds: list[int], prompt: str, **call: Any
) -> tuple[np.ndarray, np.ndarray]:
    """`reference` with LoRA files and their strengths: a number, or a table by component."""
    return reference(folder, seeds, prompt, components=loaded(folder, files), **call)


def loaded(folder: Path, files: Mapping[Path, Any]) -> dict[str, Any]:
    """The networks of diffusers' pipeline with its own LoRA loader's layers in them."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    for number, file in enumerate(files):
        pipe.load_lora_weights(str(file), adapter_name=f"lora{number}")
    names = [f"lora{number}" for number in range(len(files))]
    pipe.set_adapters(names, list(files.values()))
    wanted = ("unet", "transformer", "text_encoder", "text_encoder_2")
    return {name: found for name in wanted if (found := getattr(pipe, name, None)) is not None}
