"""The families that ComfyUI's users hold as a denoiser, text encoders and an autoencoder in files of their own.

The files are written through diffgen's layouts, which tests/unit/test_checkpoints_layouts.py holds against the
converters of diffusers.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diffgen
from diffgen.checkpoints import Model
from diffgen.checkpoints.convert import convert
from diffgen.checkpoints.keys import outward
from diffgen.checkpoints.layouts import LAYOUTS
from diffgen.checkpoints.written import LAYOUT
from diffgen.errors import CheckpointError
from diffgen.pipelines import text_to_image, text_to_video
from tests import originals, tiny_a, tiny_b, tiny_clips
from tests.contract.test_loading import same_weights


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "hunyuan-video": tiny_clips.hunyuan_video, "qwen-image": tiny_b.qwen_image, "flux2-klein": tiny_b.flux2,
    "mochi": tiny_clips.mochi, "auraflow": tiny_b.auraflow, "lumina2": tiny_b.lumina2, "pixart": tiny_b.pixart,
    "sana": tiny_b.sana, "cogvideox": tiny_clips.cogvideox, "flux-fill": lambda f: tiny_a.flux(f, pipeline="FluxFillPipeline"),
}  # fmt: skip


def apart(folder: Path, out: Path) -> dict[str, Path]:
    """Every network of a folder in a file of its own, in the original layout."""
    files = {}
    for place in sorted(path.parent for path in folder.glob("*/*.safetensors")):
        config = json.loads((place / "config.json").read_text())
        state = originals.weights(folder, place.name)
        layout = LAYOUTS[LAYOUT.get(config.get("_class_name", ""), "same")](config)
        pieces, unknown = outward(state, layout)
        assert not unknown
        files[place.name] = originals.save(out / f"{place.name}.safetensors", {
            key: piece.take(lambda name, rows: state[name], lambda name: (*state[name].shape, 1)[0])  # noqa: B023
            for key, piece in pieces.items()
        })  # fmt: skip
    return files


def frames_of(model: Model) -> int:
    step = model.family.spec.frame_step or model.family.spec.frame_factor
    return step + 1


@pytest.mark.parametrize("name", FAMILIES)
def test_files_apart_draw_what_their_folder_draws(tmp_path: Path, name: str) -> None:
    folder = FAMILIES[name](tmp_path / "folder")
    files, whole = apart(folder, tmp_path), diffgen.load(folder)
    texts = [file for part, file in files.items() if part.startswith("text_encoder")]
    model = diffgen.load(
        files["transformer"], vae=files["vae"], text_encoder=texts, config=folder, strict=True
    )  # fmt: skip
    assert model.family.name == whole.family.name
    same_weights(whole, model)
    if name != "flux-fill":
        common = dict(seed=3, steps=2, size=(64, 64))
        clip = "text_to_video" in whole.family.caps
        task = text_to_video if clip else text_to_image
        more = {"frames": frames_of(whole)} if clip else {}
        one, two = (task(m, "a cat", **common, **more)[0].pixels for m in (whole, model))  # type: ignore[arg-type]
        assert np.array_equal(one, two)


@pytest.mark.parametrize("name", ["hunyuan-video", "flux2-klein", "auraflow", "lumina2", "pixart", "sana", "mochi"])
def test_one_file_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    folder = FAMILIES[name](tmp_path / "folder")
    convert(folder, tmp_path / "one.safetensors")
    same_weights(diffgen.load(folder), diffgen.load(tmp_path / "one.safetensors", config=folder, strict=True))
    convert(tmp_path / "one.safetensors", tmp_path / "back", config=folder)
    for file in folder.glob("*/*.safetensors"):
        mine = originals.load_file(next((tmp_path / "back" / file.parent.name).glob("*.safetensors")))
        theirs = originals.load_file(file)
        assert all(value.equal(theirs[key]) for key, value in mine.items())


def test_what_is_recognised_and_not_carried_says_what_to_give(tmp_path: Path) -> None:
    from tests import sparse

    dev = {"single_stream_modulation.lin.weight": (18432, 6144), "double_blocks.0.img_attn.qkv.weight": (18432, 6144)}
    with pytest.raises(
        CheckpointError, match="is Flux.2 dev or Klein 9B, whose configuration .* give a diffusers folder"
    ):
        diffgen.load(sparse.write(tmp_path / "dev.safetensors", dev))
    vace = {"vace_blocks.0.after_proj.weight": (8, 8), "head.modulation": (1, 2, 8)}
    with pytest.raises(CheckpointError, match="is Wan VACE, which diffgen recognises but cannot load from one file"):
        diffgen.load(sparse.write(tmp_path / "vace.safetensors", vace))
