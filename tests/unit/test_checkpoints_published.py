"""Published models at full size, from the configurations we carry: headers are true, weights are holes in the file."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import CheckpointError
from tests import sparse
from tests.tiny_b import gemma_tokenizer, t5_tokenizer
from tests.tiny_clips import word_tokenizer


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


TEXT = {
    "sd15": {"clip-l": "cond_stage_model.transformer."}, "sd2": {"clip-h": "cond_stage_model.model."},
    "sdxl": {"clip-l": "conditioner.embedders.0.transformer.", "clip-g": "conditioner.embedders.1.model."},
    "sdxl-refiner": {"clip-g": "conditioner.embedders.0.model."},
}  # fmt: skip


def whole(folder: Path, name: str, text: str) -> Path:
    """An all-in-one file of a U-Net model, in float16."""
    shapes = sparse.network(name, "unet", "model.diffusion_model.") | sparse.network("vae-4", "kl", "first_stage_model.")
    for part, prefix in TEXT[text].items():
        shapes |= sparse.network(part, "same" if part == "clip-l" else "open-clip", prefix)
    return sparse.write(folder / f"{name}.safetensors", shapes)


def load(file: Path, **options: Any) -> Model:
    # In the dtype on disk, so that no weight is read.
    return diffgen.load(file, dtype="float16", strict=True, **options)


@pytest.mark.parametrize(
    ("name", "text", "options", "family", "size"),
    [
        ("sd15", "sd15", {}, "stable-diffusion", 512), ("sd15-inpaint", "sd15", {}, "stable-diffusion-inpaint", 512),
        ("sd15-edit", "sd15", {}, "stable-diffusion-edit", 512),
        ("sd2", "sd2", {"prediction": "v"}, "stable-diffusion", 768),
        ("sd2", "sd2", {"prediction": "epsilon"}, "stable-diffusion", 512),
        ("sd2-inpaint", "sd2", {}, "stable-diffusion-inpaint", 512), ("sdxl", "sdxl", {}, "sdxl", 1024),
        ("sdxl-inpaint", "sdxl", {}, "sdxl-inpaint", 1024), ("sdxl-refiner", "sdxl-refiner", {}, "sdxl-refiner", 1024),
    ],
)  # fmt: skip
def test_unet_models_load_from_one_file(
    tmp_path: Path, name: str, text: str, options: dict[str, str], family: str, size: int
) -> None:
    model = load(whole(tmp_path, name, text), **options)
    assert model.family.name == family and model.family.spec.size == (size, size) and model.name == name
    told = {"v": "v"}.get(options.get("prediction", ""), "epsilon")
    assert model.family.prediction == told


def test_a_v_prediction_model_is_told_by_its_marker_and_ends_at_pure_noise(tmp_path: Path) -> None:
    file = whole(tmp_path, "sdxl", "sdxl")
    from diffgen.checkpoints.headers import read_header

    shapes = {key: entry.shape for key, entry in read_header(file).entries.items()}
    model = load(sparse.write(tmp_path / "v.safetensors", {**shapes, "v_pred": (0,), "ztsnr": (0,)}))
    assert model.family.prediction == "v" and model.family.path.alphas_cumprod[-1] == pytest.approx(0, abs=1e-6)
    with pytest.raises(CheckpointError, match="says of itself that it predicts v_prediction"):
        load(tmp_path / "v.safetensors", prediction="epsilon")


def llama_tokenizer(folder: Path) -> Any:
    return word_tokenizer(folder, "a cat on a hill")


ENCODERS = {
    "clip-l": "same", "clip-g": "same", "t5-xxl": "same", "umt5-xxl": "same", "qwen3-4b": "same",
    "qwen2.5-vl-7b": "qwen-vl", "llama3-8b": "same", "gemma2-2b": "same", "pile-t5-xl": "same",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "layout", "vae", "encoders", "options", "family"),
    [
        ("flux-dev", "flux", "vae-16.kl", ["clip-l", "t5-xxl"], {}, "flux-dev"),
        ("flux-dev", "same", "vae-16.same", ["clip-l", "t5-xxl"], {"kind": "flux-kontext"}, "flux-kontext"),
        ("flux-fill", "flux", "vae-16.kl", ["clip-l", "t5-xxl"], {}, "flux-fill"),
        ("flux-schnell", "flux", "vae-16.kl", ["clip-l", "t5-xxl"], {}, "flux-schnell"),
        ("chroma", "chroma", "vae-16.kl", ["t5-xxl"], {}, "chroma"),
        ("sd3-medium", "sd3", "vae-16.kl", ["clip-l", "clip-g"], {}, "sd3"),
        ("sd35-medium", "sd3", "vae-16.kl", ["clip-l", "clip-g", "t5-xxl"], {}, "sd3"),
        ("sd35-large", "sd3", "vae-16.kl", ["clip-l", "clip-g"], {}, "sd3"),
        ("wan21-t2v-1.3b", "wan", "wan-vae.wan-vae", ["umt5-xxl"], {}, "wan"),
        ("wan21-t2v-14b", "wan", "wan-vae.wan-vae", ["umt5-xxl"], {}, "wan"),
        ("wan22-5b", "wan", "wan22-vae.wan-vae", ["umt5-xxl"], {}, "wan"),
        ("qwen-image", "same", "wan-vae.wan-vae", ["qwen2.5-vl-7b"], {}, "qwen-image"),
        ("qwen-image", "same", "wan-vae.wan-vae", ["qwen2.5-vl-7b"], {"kind": "qwen-image-edit"}, "qwen-image-edit"),
        ("z-image", "z-image", "vae-16.kl", ["qwen3-4b"], {"kind": "z-image-turbo"}, "z-image"),
        ("hunyuan-video", "hunyuan-video", "hunyuan-video-vae.same", ["llama3-8b", "clip-l"], {}, "hunyuan-video"),
        ("flux2-klein-4b", "flux2", "vae-32.kl", ["qwen3-4b"], {}, "flux2-klein"),
        ("mochi", "mochi", "mochi-vae.same", ["t5-xxl"], {}, "mochi"),
        ("auraflow", "auraflow", "vae-4.kl", ["pile-t5-xl"], {}, "auraflow"),
        ("lumina2", "lumina2", "vae-16.kl", ["gemma2-2b"], {}, "lumina2"),
        ("pixart-sigma", "pixart", "vae-4.kl", ["t5-xxl"], {}, "pixart-sigma"),
        ("sana", "sana", "sana-vae.same", ["gemma2-2b"], {}, "sana"),
    ],
)  # fmt: skip
def test_transformer_models_load_from_files_apart(
    tmp_path: Path, name: str, layout: str, vae: str, encoders: list[str], options: dict[str, str], family: str
) -> None:
    def file(part: str, kind: str) -> Path:
        return sparse.write(tmp_path / f"{part}.{kind}.safetensors", sparse.network(part, kind))

    tokenizers = {"t5": t5_tokenizer, "llama": llama_tokenizer, "gemma": gemma_tokenizer}
    for make in [make for kind, make in tokenizers.items() if any(kind in part for part in encoders)]:
        make(tmp_path / "t5")
        options = {**options, "tokenizer": tmp_path / "t5"}  # type: ignore[dict-item]
    texts = [file(part, ENCODERS[part]) for part in encoders]
    model = load(file(name, layout), vae=file(*vae.split(".")), text_encoder=texts, **options)  # type: ignore[arg-type]
    assert model.family.name == family
    assert set(model.others) == {*texts, tmp_path / f"{vae}.safetensors"}


def test_wan_2_2_takes_two_experts(tmp_path: Path) -> None:
    t5_tokenizer(tmp_path / "t5")
    high, low = (sparse.write(tmp_path / name, sparse.network("wan21-t2v-14b", "wan")) for name in ("high", "low"))
    vae = sparse.write(tmp_path / "vae", sparse.network("wan-vae", "wan-vae"))
    text = sparse.write(tmp_path / "umt5", sparse.network("umt5-xxl", "same"))
    model = load(high, denoiser_2=low, vae=vae, text_encoder=text, tokenizer=tmp_path / "t5")
    assert model.family.boundary == 0.875 and "denoiser_2" in model.family.components
    with pytest.raises(CheckpointError, match="has one denoiser"):
        load(high, kind="wan21-t2v-14b", denoiser_2=low, vae=vae, text_encoder=text)


def test_what_is_missing_beside_a_denoiser_is_asked_for(tmp_path: Path) -> None:
    file = sparse.write(tmp_path / "flux.safetensors", sparse.network("flux-dev", "flux"))
    with pytest.raises(CheckpointError, match=r"flux-dev also needs a vae \(vae-16\); the files given hold Flux.1 dev"):
        load(file)
    vae = sparse.write(tmp_path / "vae.safetensors", sparse.network("vae-16", "kl"))
    with pytest.raises(CheckpointError, match=r"needs a text_encoder \(clip-l\).*text_encoder=\.\.\. \(--text-encoder\)"):
        load(file, vae=vae)
    clip = sparse.write(tmp_path / "clip.safetensors", sparse.network("clip-l", "same"))
    t5 = sparse.write(tmp_path / "t5.safetensors", sparse.network("t5-xxl", "same"))
    with pytest.raises(CheckpointError, match=r"no tokenizer of T5; give a folder.*--tokenizer"):
        load(file, vae=vae, text_encoder=[clip, t5])
    with pytest.raises(CheckpointError, match="is a LoRA"):
        load(sparse.write(tmp_path / "lora.safetensors", {"lora_unet_x.lora_down.weight": (4, 8)}))
    with pytest.raises(ValueError, match="unknown kind of Flux.1 dev 'flux-pro'.*accepted: flux-dev, flux-kontext"):
        load(file, kind="flux-pro")
