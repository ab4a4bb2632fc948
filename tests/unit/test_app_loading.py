"""The options that replace a model's parts, and adapters: what is loaded, told, recorded, and found again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import diffgen
from diffgen.app import startup
from diffgen.app.cli import run
from diffgen.media import load_image, read_recipe
from tests import originals, tiny, tiny_a
from tests.tiny_lora import ATTENTION, kohya, pairs, write

DRAW = ["--seed", "3", "--steps", "1", "--size", "64"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.stable_diffusion(tmp_path_factory.mktemp("other"), seed=9)


def settings(picture: str) -> dict:
    recipe = read_recipe(picture)
    assert recipe is not None
    return dict(recipe.settings)


def test_parts_are_replaced_recorded_and_found_again(
    sd_folder: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = originals.stable_diffusion(sd_folder, Path("models/one.safetensors"))
    vae = originals.save(Path("vae.safetensors"), originals.vae(originals.weights(other, "vae")))
    given = ["--model", str(file), "--config", str(sd_folder)]
    assert run(["image", "a cat", *DRAW, *given, "-o", "own.png"]) == 0
    assert run(["image", "a cat", *DRAW, *given, "--vae", str(vae), "-o", "a.png"]) == 0
    assert not np.array_equal(load_image("own.png"), load_image("a.png"))
    parts = settings("a.png")["parts"]
    assert parts.keys() == {"vae", "config"} and parts["vae"]["file"].endswith("vae.safetensors")
    assert len(parts["vae"]["sha256"]) == 64 and "parts" in settings("own.png")
    capsys.readouterr()
    # The file is found below ./models by its name, the parts where they were.
    assert run(["replay", "a.png", "--verify"]) == 0
    assert "the same to the bit" in capsys.readouterr().out
    vae.rename("moved.safetensors")
    assert run(["replay", "a.png", "--verify"]) == 2
    assert "was made with another vae" in (told := capsys.readouterr().err) and "say where it is with --vae" in told
    assert run(["replay", "a.png", "--verify", "--vae", "moved.safetensors"]) == 0
    originals.save(vae, originals.vae(originals.weights(sd_folder, "vae")))
    capsys.readouterr()
    assert run(["replay", "a.png", "--verify"]) == 2
    assert "is not the vae that the picture was made with: its SHA-256 is" in capsys.readouterr().err


def test_show_lists_what_was_replaced(sd_folder: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "a cat", *DRAW, "--model", str(sd_folder), "--vae", str(other / "vae"), "-o", "a.png"]) == 0
    capsys.readouterr()
    assert run(["show", "a.png"]) == 0
    assert f"vae {other / 'vae'} (" in capsys.readouterr().out.replace("\n", "")


def test_python_records_the_same(sd_folder: Path, other: Path) -> None:
    from diffgen.pipelines import prepare

    model = diffgen.load(sd_folder, vae=other, prediction="eps")
    recipe = prepare(model, "a cat")[0]
    assert recipe.settings["parts"]["prediction"] == "epsilon" and "sha256" in recipe.settings["parts"]["vae"]
    assert "parts" not in prepare(diffgen.load(sd_folder), "a cat")[0].settings


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--vae", "nothing.safetensors"], "there is nothing at nothing.safetensors, given as --vae"),
        (["--text-encoder", "a"], "there is nothing at a, given as --text-encoder"),
        (["--kind", "flux-kontekst"], "unknown kind of model 'flux-kontekst'; did you mean flux-kontext"),
        (["--prediction", "x0"], "unknown prediction 'x0'; accepted: epsilon, v_prediction"),
        (["--lora", "nothing.safetensors:0.5"], "there is no adapter at nothing.safetensors"),
        (["--lora", "a:1:lbw=IN04"], "'IN04' in the block weights 'IN04' is no number"),
        (["--lora", "a:1:lbw=1,2,3"], "a list of 12, 17, 20, 26 numbers; got '1,2,3'"),
        (["--lora-dir", "nowhere"], "there is no folder nowhere to look for LoRAs in"),
        (["--true-cfg", "-1"], "true-cfg must be at least 0"),
        (["--model", "owner/name"], "nothing is fetched unless download=True (--download) says so"),
    ],
)
def test_what_is_wrong_is_found_before_anything_loads(
    sd_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: list[str], says: str
) -> None:
    monkeypatch.setattr(startup, "load_model", lambda *args, **more: pytest.fail("the model was loaded"))
    model = [] if "--model" in given else ["--model", str(sd_folder)]
    for command in ("image", "video"):
        assert run([command, "a cat", *model, *given]) == 2
        told = capsys.readouterr().err
        assert says in told and "Traceback" not in told


def test_every_command_that_loads_has_the_group(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("image", "video", "replay", "convert"):
        assert run([command, "--help"]) == 0
        out = capsys.readouterr().out
        for option in ("--vae", "--text-encoder", "--tokenizer", "--config", "--kind", "--prediction", "--download",
                       "--allow-pickle"):  # fmt: skip
            assert option in out, (command, option)


def test_a_lora_says_how_many_of_its_keys_took_effect(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = diffgen.load(sd_folder).family.components["denoiser"]
    layers = pairs(network, ATTENTION)
    write(Path("style.safetensors"), {**kohya(layers, "lora_unet"), "lora_unet_no_such.alpha": torch.tensor(1.0)})
    model = ["--model", str(sd_folder)]
    assert run(["image", "a cat", *DRAW, *model, "--lora", "style.safetensors:0.8", "--json", "-o", "a.png"]) == 0
    out, err = capsys.readouterr()
    count = 3 * len(layers)
    assert f"style.safetensors: {count} of {count + 1} keys took effect ({len(layers)} LoRA layers)" in err
    assert "1 of" in err and "keys took no effect: lora_unet_no_such.alpha" in err
    first = json.loads(out.splitlines()[0])
    assert first == {"kind": "adapter", "file": "style.safetensors", "keys": count + 1, "used": count}
    assert run(["image", "a cat <lora:style:0.8>", *DRAW, *model, "--lora-dir", ".", "-o", "b.png"]) == 0
    assert run(["image", "a cat", *DRAW, *model, "-o", "c.png"]) == 0
    assert np.array_equal(load_image("a.png"), load_image("b.png"))
    assert not np.array_equal(load_image("a.png"), load_image("c.png"))
    assert run(["replay", "b.png", "--verify", *model]) == 0


def test_a_lora_that_changes_nothing_is_an_error(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("zero.safetensors"), {"lora_unet_nowhere.lora_up.weight": torch.ones(4, 2),
                                     "lora_unet_nowhere.lora_down.weight": torch.ones(2, 4)})  # fmt: skip
    assert run(["image", "a cat", *DRAW, "--model", str(sd_folder), "--lora", "zero.safetensors"]) == 2
    assert "changes nothing: none of its 2 keys has a place in this model" in capsys.readouterr().err


def test_block_weights_on_the_command_line(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = diffgen.load(sd_folder).family.components["denoiser"]
    write(Path("style.safetensors"), kohya(pairs(network, ATTENTION), "lora_unet"))
    common = ["image", "a cat", *DRAW, "--model", str(sd_folder)]
    assert run([*common, "--lora", "style.safetensors:0.8:0.5:lbw=MID=0,OUT01=0.5", "-o", "a.png"]) == 0
    tag = ["image", "a cat <lora:style:te=0.5:unet=0.8:lbw=MID=0,OUT01=0.5>", *common[2:], "--lora-dir", "."]
    assert run([*tag, "-o", "b.png"]) == 0
    assert run([*common, "--lora", "style.safetensors:0.8", "-o", "c.png"]) == 0
    assert settings("a.png")["adapters"][0]["blocks"] == {"MID": 0.0, "OUT01": 0.5}
    assert np.array_equal(load_image("a.png"), load_image("b.png"))
    assert not np.array_equal(load_image("a.png"), load_image("c.png"))
    # A block of this model that the file leaves alone is no mistake; one that the model lacks is.
    assert run([*common, "--lora", "style.safetensors:1:lbw=BASE=0", "-o", "d.png"]) == 0
    assert run([*common, "--lora", "style.safetensors:1:lbw=IN09=0", "-o", "e.png"]) == 2
    assert "has no layer in the block 'IN09'" in capsys.readouterr().err


def test_an_embedding_in_a_pickle_is_read_where_allowed(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"string_to_param": {"*": torch.randn(2, 32)}, "name": "x"}, "emb.pt")
    common = ["image", "a cat, emby", *DRAW, "--model", str(sd_folder), "--embedding", "emb.pt:emby", "-o", "a.png"]
    assert run(common) == 2
    assert "emb.pt is a pickle" in capsys.readouterr().err
    assert run([*common, "--allow-pickle"]) == 0
    assert "1 of 1 keys took effect (2 embedding vectors for the word 'emby')" in capsys.readouterr().err
    assert settings("a.png")["adapters"][0]["word"] == "emby"


def test_true_cfg_is_for_distilled_models(sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flux = ["image", "a cat", *DRAW, "--negative", "a dog", "--model", str(tiny_a.flux(tmp_path / "flux"))]
    assert run([*flux, "-o", "one.png"]) == 0
    assert "the negative prompt was not used; it needs the setting 'true_cfg' above 1" in capsys.readouterr().err
    assert run([*flux, "--true-cfg", "3", "-o", "three.png"]) == 0
    assert settings("three.png")["true_cfg"] == 3
    assert not np.array_equal(load_image("one.png"), load_image("three.png"))
    assert run(["image", "a cat", *DRAW, "--model", str(sd_folder), "--true-cfg", "3"]) == 2
    assert "stable-diffusion takes no true_cfg (--true-cfg): its guidance, now 7.5, is" in capsys.readouterr().err


def test_what_a_file_holds_beyond_the_model_is_a_note_and_strict_refuses_it(
    sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = originals.stable_diffusion(sd_folder, Path("one.safetensors"))
    originals.save(file, {**originals.load_file(file), "somebody.else": torch.ones(3)})
    common = ["image", "a cat", *DRAW, "--model", str(file), "--config", str(sd_folder), "-o", "a.png"]
    assert run(common) == 0
    assert "note: 1 tensors of one.safetensors were not used, the first is somebody.else" in capsys.readouterr().err
    assert run([*common, "--force", "--strict"]) == 2
    assert "were not used" in capsys.readouterr().err


def test_files_are_listed_among_the_models(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests import sparse

    sparse.sd15(Path("models/sd15.safetensors"))
    sparse.write(Path("models/flux.safetensors"), sparse.network("flux-schnell", "flux"))
    sparse.write(Path("models/vae.safetensors"), sparse.network("vae-4", "kl"))
    Path("models/page.safetensors").write_text("<html>")
    Path("models/old.ckpt").write_bytes(b"PK\x03\x04")
    assert run(["models", "--json"]) == 0
    found = {one["model"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["models/sd15.safetensors"]["pipeline"] == "Stable Diffusion 1.x"
    assert found["models/flux.safetensors"]["pipeline"] == "Flux.1 schnell, the denoiser alone"
    assert "is an HTML page" in found["models/page.safetensors"]["problem"]
    assert "--allow-pickle" in found["models/old.ckpt"]["problem"]
    assert "models/vae.safetensors" not in found


def _without(state: dict[str, torch.Tensor], key: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if name != key}


UNET = "model.diffusion_model.input_blocks.0.0"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("a key removed", "1 weights are missing, the first is conv_in.bias"),
        ("a shape changed", "conv_in.bias has shape (9,); its configuration asks for (8,)"),
        ("cut short", "one.safetensors is damaged: truncated"),
        ("garbage", "one.safetensors is damaged or no weight file"),
        ("a web page", "one.safetensors is an HTML page, not a weight file"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    sd_folder: Path, capsys: pytest.CaptureFixture[str], damage: str, says: str
) -> None:
    file = originals.stable_diffusion(sd_folder, Path("one.safetensors"))
    state, raw = originals.load_file(file), file.read_bytes()
    if damage == "a key removed":
        originals.save(file, _without(state, f"{UNET}.bias"))
    elif damage == "a shape changed":
        originals.save(file, {**state, f"{UNET}.bias": torch.zeros(9)})
    else:
        broken = {"cut short": raw[:-1000], "garbage": bytes(range(256)) * 9, "a web page": b"<html>log in</html>"}
        file.write_bytes(broken[damage])
    assert run(["image", "a cat", *DRAW, "--model", str(file), "--config", str(sd_folder), "-o", "a.png"]) == 2
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told and not Path("a.png").exists()
