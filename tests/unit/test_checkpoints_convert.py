"""From folder to file and back, bit for bit; other dtypes; and models from the hub, with the hub played."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import diffgen
from diffgen.checkpoints import hub
from diffgen.checkpoints.convert import convert
from diffgen.errors import CheckpointError, UsageError
from diffgen.pipelines import text_to_image
from tests import originals, originals_dit, tiny, tiny_a


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert value.dtype == two[key].dtype and value.equal(two[key]), key


def same_folders(one: Path, two: Path) -> None:
    for file in one.glob("*/*.safetensors"):
        same(load_file(file), load_file(next((two / file.parent.name).glob("*.safetensors"))))


@pytest.mark.parametrize("kind", ["sd", "sd2", "sdxl", "refiner", "flux"])
def test_there_and_back_is_bit_exact(tmp_path: Path, kind: str) -> None:
    folder: Path = {
        "sd": tiny.stable_diffusion, "sd2": lambda f: tiny.stable_diffusion(f, pad="!"), "sdxl": tiny_a.sdxl,
        "refiner": lambda f: tiny_a.sdxl(f, pipeline="StableDiffusionXLImg2ImgPipeline", refiner=True),
        "flux": tiny_a.flux,
    }[kind](tmp_path / kind)  # fmt: skip
    file, back, again = tmp_path / "one.safetensors", tmp_path / "back", tmp_path / "two.safetensors"
    convert(folder, file)
    assert convert(file, back, config=folder).notes == ()
    convert(back, again)
    same(load_file(file), load_file(again))
    same_folders(folder, back)
    assert diffgen.load(back).family.name == diffgen.load(folder).family.name


def test_what_is_written_is_the_original_layout(tmp_path: Path) -> None:
    for name, write in (("sd", originals.stable_diffusion), ("sdxl", originals.sdxl)):
        folder = {"sd": tiny.stable_diffusion, "sdxl": tiny_a.sdxl}[name](tmp_path / name)
        convert(folder, tmp_path / f"{name}.safetensors")
        want, got = load_file(write(folder, tmp_path / "want.safetensors")), load_file(tmp_path / f"{name}.safetensors")
        left = {"alphas_cumprod", "model_ema.decay", "conditioner.embedders.1.model.logit_scale",
                "cond_stage_model.transformer.text_model.embeddings.position_ids"}  # fmt: skip
        same({key: value for key, value in want.items() if key not in left}, got)


def test_a_converted_folder_draws_the_same_picture(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path / "sd")
    file = originals.stable_diffusion(folder, tmp_path / "sd.safetensors")
    convert(file, tmp_path / "back", config=folder)
    one, two = (
        text_to_image(diffgen.load(f), "a red apple", seed=1, steps=2, size=(64, 64))[0].pixels
        for f in (folder, tmp_path / "back")
    )
    assert (one == two).all()


def test_dtypes_change_as_torch_changes_them(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path / "sd")
    convert(folder, tmp_path / "half", dtype="fp16")
    for file in folder.glob("*/*.safetensors"):
        half = load_file(tmp_path / "half" / file.parent.name / file.name)
        same({key: value.half() for key, value in load_file(file).items()}, half)
    assert diffgen.load(tmp_path / "half", dtype="fp16").family.name == "stable-diffusion"
    file = originals.stable_diffusion(folder, tmp_path / "sd.safetensors")
    convert(file, tmp_path / "bf16.safetensors", dtype="bf16")
    want = {key: value.bfloat16() if value.is_floating_point() else value for key, value in load_file(file).items()}
    same(want, load_file(tmp_path / "bf16.safetensors"))


def test_files_apart_become_one_folder(tmp_path: Path) -> None:
    folder = tiny_a.flux(tmp_path / "flux")
    files = originals_dit.apart(folder, tmp_path, "flux")
    texts = [files["text_encoder"], files["text_encoder_2"]]
    convert(files["denoiser"], tmp_path / "back", vae=files["vae"], text_encoder=texts, config=folder)
    same_folders(folder, tmp_path / "back")


def test_what_cannot_be_converted_says_why(tmp_path: Path) -> None:
    folder = tiny.stable_diffusion(tmp_path / "sd")
    with pytest.raises(UsageError, match="exists; give another name, or overwrite"):
        convert(folder, folder)
    with pytest.raises(CheckpointError, match="no model at"):
        convert(tmp_path / "nothing", tmp_path / "x")
    with pytest.raises(UsageError, match="vae go with a single file"):
        convert(folder, tmp_path / "x", vae=folder)
    with pytest.raises(UsageError, match="unknown dtype 'int9'"):
        convert(folder, tmp_path / "x", dtype="int9")


FILES = [
    "model_index.json", "README.md", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin", "tokenizer/merges.txt",
    "tokenizer/vocab.json", "safety_checker/model.safetensors", "v1-5-pruned.safetensors", "vae/a.fp16.safetensors",
    "text_encoder/model-00001-of-00002.safetensors", "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
]  # fmt: skip


def test_one_variant_of_everything_is_fetched_and_nothing_else() -> None:
    assert set(hub.chosen(FILES)) == {
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/merges.txt",
        "tokenizer/vocab.json", "vae/a.fp16.safetensors", "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors", "text_encoder/model.safetensors.index.json",
    }  # fmt: skip
    with pytest.raises(CheckpointError, match=r"no diffusers folder; it has a\.gguf: give one of them behind the id"):
        hub.chosen(["a.gguf", "README.md"])


def test_a_hub_id_is_fetched_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder = tiny.stable_diffusion(tmp_path / "sd")
    asked: list[Any] = []

    def snapshot(repository: str, *, local_files_only: bool = False, allow_patterns: Any = None) -> str:
        asked.append((repository, local_files_only, allow_patterns))
        if local_files_only and len(asked) == 1:
            raise FileNotFoundError("not in the cache")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda self, name: FILES)
    with pytest.raises(CheckpointError, match=r"nothing is fetched unless download=True \(--download\) says so"):
        diffgen.load("somebody/some-model")
    model = diffgen.load("somebody/some-model", download=True)
    assert model.name == "some-model" and model.family.name == "stable-diffusion"
    assert asked[1] == ("somebody/some-model", False, hub.chosen(FILES))
    # Fetched once, it is found without asking.
    assert diffgen.load("somebody/some-model").hash == model.hash and asked[2][1]


def test_a_path_is_never_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="there is no model at"):
        diffgen.load(tmp_path / "a" / "b" / "c")
    with pytest.raises(CheckpointError, match="there is no model at"):
        diffgen.load("./owner/name")
