"""Every way a model may come: folder, single file, files apart. Same picture as the folder, and no network."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import CheckpointError
from diffgen.pipelines import text_to_image, text_to_video
from tests import originals, originals_dit, sparse, tiny, tiny_a, tiny_b, tiny_clips


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny folders by name, each made once."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("folders")
    makers: dict[str, Callable[[Path], Path]] = {
        "sd": tiny.stable_diffusion,
        "sd2": lambda f: tiny.stable_diffusion(f, prediction="v_prediction", pad="!"),
        "sdxl": tiny_a.sdxl,
        "refiner": lambda f: tiny_a.sdxl(f, pipeline="StableDiffusionXLImg2ImgPipeline", refiner=True),
        "inpaint": lambda f: tiny_a.sd_variant(f, "StableDiffusionInpaintPipeline"),
        "flux": tiny_a.flux, "chroma": tiny_a.chroma, "sd3": tiny_a.sd3, "z": tiny_b.z_image,
        "wan": tiny_clips.wan, "wan-5b": lambda f: tiny_clips.wan(f, kind="5b"),
        "wan-two": lambda f: tiny_clips.wan(f, kind="2.2"), "ltx": tiny_clips.ltx,
        "wan-i2v": lambda f: tiny_clips.wan(f, kind="2.1-i2v"),
    }  # fmt: skip

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = makers[name](root / name)
        return made[name]

    return folder


def draw(model: Model) -> np.ndarray:
    return text_to_image(model, "a red apple", seed=3, steps=2, size=(64, 64))[0].pixels


def same_weights(one: Model, other: Model) -> None:
    """Every network has the same weights, bit for bit."""
    assert one.family.components.keys() == other.family.components.keys()
    for name, network in one.family.components.items():
        theirs = other.family.components[name].state_dict()
        for key, value in network.state_dict().items():
            assert value.dtype == theirs[key].dtype and value.equal(theirs[key]), (name, key)


@pytest.mark.parametrize(
    ("name", "write"),
    [("sd", originals.stable_diffusion), ("sd2", originals.stable_diffusion_2), ("sdxl", originals.sdxl)],
)
def test_a_single_file_draws_what_its_folder_draws(folders: Any, tmp_path: Path, name: str, write: Any) -> None:
    folder = folders(name)
    single = diffgen.load(write(folder, tmp_path / "model.safetensors"), config=folder, strict=True)
    whole = diffgen.load(folder)
    same_weights(single, whole)
    assert np.array_equal(draw(single), draw(whole))


@pytest.mark.parametrize("name", ["refiner", "inpaint"])
def test_variants_that_need_a_picture_load_from_a_single_file(folders: Any, tmp_path: Path, name: str) -> None:
    folder, file = folders(name), tmp_path / "model.safetensors"
    if name == "refiner":
        originals.sdxl(folder, file, refiner=True)
    else:
        originals.stable_diffusion(folder, file)
    single, whole = diffgen.load(file, config=folder), diffgen.load(folder)
    assert single.family.name == whole.family.name
    same_weights(single, whole)


def apart(folder: Path, out: Path) -> dict[str, Path]:
    """SD 1.x as three files."""
    return {
        "denoiser": originals.save(out / "unet.safetensors", originals.unet(originals.weights(folder, "unet"))),
        "vae": originals.save(out / "vae.safetensors", originals.vae(originals.weights(folder, "vae"))),
        "text": originals.save(out / "clip.safetensors", originals.clip(originals.weights(folder, "text_encoder"))),
    }


def test_denoiser_vae_and_text_encoder_may_be_three_files(folders: Any, tmp_path: Path) -> None:
    folder = folders("sd")
    files = apart(folder, tmp_path)
    model = diffgen.load(files["denoiser"], vae=files["vae"], text_encoder=files["text"], config=folder)
    assert np.array_equal(draw(model), draw(diffgen.load(folder)))
    assert model.hash != diffgen.load(files["denoiser"], vae=folder, text_encoder=files["text"], config=folder).hash
    with pytest.raises(CheckpointError, match=r"also needs a vae .* Give it with vae="):
        diffgen.load(files["denoiser"], text_encoder=files["text"], config=folder)
    with pytest.raises(CheckpointError, match="not what it was given for"):
        diffgen.load(files["denoiser"], vae=files["text"], text_encoder=files["text"], config=folder)


def test_parts_of_a_folder_may_be_replaced_by_files_and_folders(folders: Any, tmp_path: Path) -> None:
    other = tiny.stable_diffusion(tmp_path / "other", seed=9)
    files, folder = apart(other, tmp_path), folders("sd")
    for given in (files["vae"], other, other / "vae"):
        model = diffgen.load(folder, vae=given)
        assert not np.array_equal(draw(model), draw(diffgen.load(folder)))
        swapped = model.family.components["vae"].state_dict()
        for key, value in diffgen.load(other).family.components["vae"].state_dict().items():
            assert swapped[key].equal(value)
    with pytest.raises(CheckpointError, match="goes with a single file"):
        diffgen.load(folder, kind="sd15")


def test_what_a_file_holds_beyond_the_model_is_told_and_strict_refuses_it(folders: Any, tmp_path: Path) -> None:
    import torch

    folder = folders("sd")
    file = originals.stable_diffusion(folder, tmp_path / "model.safetensors")
    more = {"first_stage_model.extra.weight": torch.ones(2), "somebody.else": torch.ones(3)}
    originals.save(file, originals.load_file(file) | more)
    model = diffgen.load(file, config=folder)
    assert [note.rpartition(" ")[2] for note in model.notes] == ["extra.weight"]
    assert "2 tensors of model.safetensors were not used" in model.notes[0]
    with pytest.raises(CheckpointError, match="were not used"):
        diffgen.load(file, config=folder, strict=True)


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        ("model.diffusion_model.input_blocks.3.0.in_layers.2.weight", None, "down_blocks.1.resnets.0.conv1.weight"),
        ("first_stage_model.decoder.mid.attn_1.q.weight", None, "decoder.mid_block.attentions.0.to_q.weight"),
        ("model.diffusion_model.out.2.weight", (4, 8, 1, 1), r"has shape \(4, 8, 1, 1\).* asks for \(4, 8, 3, 3\)"),
    ],
)
def test_a_missing_or_misshapen_tensor_is_named(
    folders: Any, tmp_path: Path, key: str, change: tuple[int, ...] | None, says: str
) -> None:
    import torch

    folder = folders("sd")
    file = originals.stable_diffusion(folder, tmp_path / "model.safetensors")
    state = originals.load_file(file)
    del state[key]
    originals.save(file, state if change is None else {**state, key: torch.zeros(change)})
    with pytest.raises(CheckpointError, match=says):
        diffgen.load(file, config=folder)


def texts(files: dict[str, Path]) -> list[Path]:
    return [file for name, file in files.items() if name.startswith("text_encoder")]


@pytest.mark.parametrize("name", ["flux", "chroma", "sd3", "z", "wan", "ltx"])
def test_transformers_load_from_files_apart_and_from_one(folders: Any, tmp_path: Path, name: str) -> None:
    folder = folders(name)
    files, whole = originals_dit.apart(folder, tmp_path, name), diffgen.load(folder)
    together = originals_dit.joined(files, tmp_path / "all.safetensors")
    for model in (
        diffgen.load(files["denoiser"], vae=files["vae"], text_encoder=texts(files), config=folder, strict=True),
        diffgen.load(together, config=folder, strict=True),
    ):
        same_weights(whole, model)
    if "text_to_video" in whole.family.caps:
        drawn = [text_to_video(m, "a cat", seed=3, steps=2, size=(64, 64), frames=9)[0].pixels for m in (whole, model)]
    else:
        drawn = [draw(whole), draw(model)]
    assert np.array_equal(*drawn)


def test_two_experts_come_in_two_files(folders: Any, tmp_path: Path) -> None:
    folder = folders("wan-two")
    files = originals_dit.apart(folder, tmp_path, "wan")
    low = originals.save(tmp_path / "low.safetensors", originals_dit.wan(originals.weights(folder, "transformer_2")))
    given = dict(vae=files["vae"], text_encoder=texts(files), config=folder)
    same_weights(diffgen.load(folder), diffgen.load(files["denoiser"], denoiser_2=low, **given))
    with pytest.raises(CheckpointError, match="also needs a transformer_2 .* denoiser_2="):
        diffgen.load(files["denoiser"], **given)


def test_image_to_video_takes_its_image_encoder_from_a_file(folders: Any, tmp_path: Path) -> None:
    folder = folders("wan-i2v")
    files = originals_dit.apart(folder, tmp_path, "wan")
    seen = originals.prefixed("vision_model.", originals.weights(folder, "image_encoder"))
    eyes = originals.save(tmp_path / "eyes.safetensors", seen)
    given = dict(vae=files["vae"], text_encoder=texts(files), config=folder)
    same_weights(diffgen.load(folder), diffgen.load(files["denoiser"], image_encoder=eyes, **given))


def test_a_model_without_its_optional_encoder_loads(folders: Any, tmp_path: Path) -> None:
    folder = tiny_a.sd3(tmp_path / "sd3", t5=False)
    files = originals_dit.apart(folder, tmp_path, "sd3")
    model = diffgen.load(files["denoiser"], vae=files["vae"], text_encoder=texts(files), config=folder)
    assert np.array_equal(draw(model), draw(diffgen.load(folder)))


MEASURE = """
import re, sys, torch
from pathlib import Path
from diffusers import AutoencoderKL
from diffgen.checkpoints.components import load_network
# Not from getrusage: its peak remembers the process that started this one.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
network = load_network(AutoencoderKL, Path(sys.argv[1]), getattr(torch, sys.argv[2]), torch.device("cpu"))
print((peak() - before) / sum(value.nbytes for value in network.state_dict().values()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read where Linux keeps it")
@pytest.mark.parametrize(("stored", "wanted"), [("F32", "bfloat16"), ("F16", "float32"), ("F16", "bfloat16")])
def test_two_copies_are_never_in_memory(tmp_path: Path, stored: str, wanted: str) -> None:
    from diffusers import AutoencoderKL

    from diffgen.checkpoints.blueprint import part_slot
    from diffgen.checkpoints.networks import empty_network

    slot = part_slot("vae-4")
    assert slot is not None
    network = empty_network(AutoencoderKL, {**slot.config, "block_out_channels": [256, 512, 1024, 1024]})
    network.save_config(tmp_path)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    sparse.write(tmp_path / "diffusion_pytorch_model.safetensors", shapes, stored)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), wanted]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Not far below 1 either: otherwise nothing was read and nothing is proven.
    assert 0.8 < float(out.splitlines()[-1]) <= 1.15
