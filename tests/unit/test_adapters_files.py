"""What a person types about adapters, and files that are none: each is one sentence that says what is wrong."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffgen
from diffgen.adapters import Adapter, apply, find, from_tags, parse
from diffgen.adapters.blocks import weight_of
from diffgen.adapters.keys import groups_of
from diffgen.errors import CheckpointError, UsageError
from diffgen.pipelines import adapting, text_to_image
from diffgen.pipelines.text_to_image import prepare, replay
from diffgen.prompts import extract_loras
from diffgen.recipe import Recipe
from tests.tiny_lora import ATTENTION, kohya, pairs, peft, write

CALL = dict(seed=3, steps=2, size=(64, 64))
PROMPT = "a photo of a red apple"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sd_folder: Path) -> Path:
    """A folder of LoRAs for the tiny Stable Diffusion: style, Face and night/style-2."""
    where = tmp_path_factory.mktemp("loras")
    (where / "night").mkdir()
    network = diffgen.load(sd_folder).family.components["denoiser"]
    for seed, name in enumerate(("style", "Face", "night/style-2")):
        write(where / f"{name}.safetensors", kohya(pairs(network, ATTENTION, seed=seed), "lora_unet"))
    return where


@pytest.mark.parametrize(("text", "path", "strength", "text_strength"), [
    ("a.safetensors", "a.safetensors", 1.0, None), ("a.safetensors:0.8", "a.safetensors", 0.8, None),
    ("a.safetensors:0.8:0.5", "a.safetensors", 0.8, 0.5), ("a.safetensors:-1", "a.safetensors", -1.0, None),
    ("C:\\loras\\a.safetensors:.5", "C:\\loras\\a.safetensors", 0.5, None), ("a:b", "a:b", 1.0, None),
])  # fmt: skip
def test_a_file_with_strengths(text: str, path: str, strength: float, text_strength: float | None) -> None:
    adapter = parse(text)
    assert (str(adapter.path), adapter.strength, adapter.text_strength) == (path, strength, text_strength)


def test_a_colon_may_belong_to_a_name(tmp_path: Path) -> None:
    file = tmp_path / "a:0.5"
    file.touch()
    assert parse(str(file)).path == file


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True])
def test_strengths_are_finite_numbers(value: Any) -> None:
    for options in ({"strength": value}, {"text_strength": value}, {"blocks": {"mid_block": value}}):
        with pytest.raises(UsageError, match="must be a finite number"):
            Adapter(Path("a.safetensors"), **options)


def test_tags_find_their_files(folder: Path) -> None:
    _, tags = extract_loras("a cat <lora:style:0.8> <lora:face.safetensors:0.5:0.3> <lora:night/style-2>")
    found = from_tags(tags, [folder])
    assert [adapter.name for adapter in found] == ["style", "Face", "style-2"]
    assert [(adapter.strength, adapter.text_strength) for adapter in found] == [(0.8, 0.8), (0.3, 0.5), (1.0, 1.0)]


@pytest.mark.parametrize(("name", "says"), [
    ("styel", "unknown LoRA 'styel'; did you mean style.* 3 adapters are in"),
    ("qqqqqqqq", "unknown LoRA 'qqqqqqqq'; 3 adapters are in"),
])  # fmt: skip
def test_unknown_names_list_the_near_ones(name: str, says: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=says):
        find(name, [folder])
    with pytest.raises(UsageError, match="no folder to look in was given"):
        find(name, [])


def test_two_of_one_name_are_told_apart_by_a_longer_path(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "style.safetensors").touch()
    with pytest.raises(UsageError, match="several adapters are named 'style'"):
        find("style", [folder, tmp_path])
    assert find("more/style", [folder, tmp_path]).parent.name == "more"


def garbage(where: Path) -> dict[str, tuple[Path, str]]:
    good = write(where / "good.safetensors", {"lora_unet_x.lora_up.weight": torch.ones(64, 64)})
    made = {
        "missing.safetensors": (None, "there is no adapter at"),
        "empty.safetensors": (b"", "is no whole safetensors file"),
        "page.safetensors": (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        "noise.safetensors": (bytes(range(256)) * 8, "is no whole safetensors file"),
        "short.safetensors": (good.read_bytes()[:-100], "is no whole safetensors file"),
        "renamed.safetensors": (b"PK\x03\x04" + b"\0" * 100, "is a pickle under another name"),
        "nothing.safetensors": (b"\x02\0\0\0\0\0\0\0{}", "holds no tensor"),
        "old.pt": (b"\x80\x02", "is a pickle, which can run code"),
    }  # fmt: skip
    for name, (content, _) in made.items():
        if content is not None:
            (where / name).write_bytes(content)
    return {name: (where / name, says) for name, (_, says) in made.items()}


@pytest.mark.parametrize("name", [
    "missing.safetensors", "empty.safetensors", "page.safetensors", "noise.safetensors", "short.safetensors",
    "renamed.safetensors", "nothing.safetensors", "old.pt",
])  # fmt: skip
def test_garbage_is_one_sentence(name: str, sd_folder: Path, tmp_path: Path) -> None:
    file, says = garbage(tmp_path)[name]
    with pytest.raises(CheckpointError, match=says) as error:
        apply([Adapter(file)], diffgen.load(sd_folder).family)
    assert name in str(error.value) and "\n" not in str(error.value)


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code was run",)


def test_pickles_are_read_where_allowed_and_run_no_code(
    folder: Path, sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    family = diffgen.load(sd_folder).family
    tensors = load_file(folder / "style.safetensors")
    for content in (tensors, {"state_dict": tensors}):
        torch.save(content, tmp_path / "style.pt")
        [report] = apply([Adapter(tmp_path / "style.pt", allow_pickle=True)], family).reports
        assert report.used == len(tensors)
    for content, says in (({"x": Evil()}, "holds more than tensors"), ([1, 2], "holds no tensor")):
        torch.save(content, tmp_path / "evil.pt")
        with pytest.raises(CheckpointError, match=says):
            apply([Adapter(tmp_path / "evil.pt", allow_pickle=True)], family)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "style.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        apply([Adapter(tmp_path / "cut.pt", allow_pickle=True)], family)
    assert "code was run" not in capsys.readouterr().out


def test_folders_as_peft_saves_them_say_their_alpha(sd_folder: Path, tmp_path: Path) -> None:
    family = diffgen.load(sd_folder).family
    network = family.components["denoiser"]
    layers = pairs(network, ("attn1.to_q",))
    write(tmp_path / "adapter_model.safetensors", peft(layers, "base_model.model"))
    name, (down, up) = next(iter(layers.items()))
    before = network.get_parameter(f"{name}.weight").detach().clone()
    stated = [({"r": 3, "lora_alpha": 6}, 2.0), ({"r": 4, "lora_alpha": 6, "use_rslora": True}, 3.0),
              ({"r": 3, "lora_alpha": 3, "alpha_pattern": {"to_q": 12}}, 4.0), ({"r": 3}, 1.0)]  # fmt: skip
    for config, scale in stated:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        applied = apply([Adapter(tmp_path)], family)
        with applied.drawing[0](family.components):
            now = network.get_parameter(f"{name}.weight").detach()
            torch.testing.assert_close(now, before + scale * up @ down, atol=1e-6, rtol=1e-5)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter_config.json cannot be read"):
        apply([Adapter(tmp_path)], family)


def test_keys_of_every_tool() -> None:
    keys = {
        "unet.a.b.lora_A.default.weight": ("a.b", "down"), "unet.a.b.lora.up.weight": ("a.b", "up"),
        "text_encoder.text_model.c.lora_linear_layer.down.weight": ("text_model.c", "down"),
        "lycoris_a_b.lokr_w1": ("a_b", "lokr_w1"), "diffusion_model.blocks.0.diff_m": ("blocks.0.modulation", "diff"),
        "double_blocks.0.img_attn.qkv.lora_A.weight": ("double_blocks.0.img_attn.qkv", "down"),
        "transformer.a.lora_magnitude_vector.default.weight": ("a", "magnitude"),
        "lora_te1_c.dora_scale": ("c", "dora_scale"), "text_encoders.clip_l.transformer.d.alpha": ("d", "alpha"),
    }  # fmt: skip
    for key, (layer, role) in keys.items():
        [group], strange = groups_of([key], {})
        assert (group.layer, *group.keys) == (layer, role) and not strange


@pytest.mark.parametrize(("blocks", "expected"), [
    ({"up_blocks.1": 0.5}, 0.5), ({"up_blocks": 0.5, "up_blocks.1.attentions": 0.2}, 0.2), ({"OUT04": 0.3}, 0.3),
    ({"output_blocks.4": 0.3}, 0.3), ({"up_blocks.*": 0.4}, 0.4), ({"denoiser": 0.1}, 0.1),
    ({"up_blocks.10": 0.5}, 1.0), ({"MID": 0.5, "IN04": 0.2, "BASE": 0.0}, 1.0), ({"denoiser.up_blocks.1": 0.6}, 0.6),
])  # fmt: skip
def test_the_longest_block_pattern_counts(blocks: dict[str, float], expected: float) -> None:
    names = ["up_blocks.1.attentions.0.proj_in", "output_blocks.4.1.proj_in"]
    assert weight_of(blocks, "denoiser", names)[0] == expected


def test_blocks_weigh_and_unknown_ones_are_refused(folder: Path, sd_folder: Path) -> None:
    family = diffgen.load(sd_folder).family
    network, file = family.components["denoiser"], folder / "style.safetensors"
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}

    def change(**options: Any) -> dict[str, torch.Tensor]:
        with apply([Adapter(file, **options)], family).drawing[0](family.components):
            return {name: weight.detach() - before[name] for name, weight in network.named_parameters()}

    whole, part = change(), change(blocks={"mid_block": 0.0, "OUT01": 0.5})
    for name, moved in whole.items():
        factor = 0.0 if name.startswith("mid_block") else 0.5 if name.startswith("up_blocks.0.attentions.1") else 1.0
        torch.testing.assert_close(part[name], factor * moved, atol=1e-6, rtol=1e-4)
    with pytest.raises(UsageError, match=r"has no layer in the block 'IN99'; it has down_blocks.1, .*up_blocks.0"):
        change(blocks={"IN99": 0.5})


def test_the_recipe_carries_them_and_replay_applies_them(folder: Path, sd_folder: Path) -> None:
    model = diffgen.load(sd_folder)
    given = Adapter(folder / "Face.safetensors", strength=0.5, blocks={"mid_block": 0.2})
    prompt = f"{PROMPT} <lora:style:0.8:0.6>"
    [picture] = text_to_image(model, prompt, adapters=[given], adapter_folders=[folder], **CALL)
    one, two = picture.recipe.settings["adapters"]
    assert (one["name"], one["strength"], one["blocks"]) == ("Face", 0.5, {"mid_block": 0.2})
    assert (two["name"], two["strength"], two["text_strength"], len(two["sha256"])) == ("style", 0.6, 0.8, 64)
    read = Recipe.from_json(picture.recipe.to_json())
    assert np.array_equal(replay(model, read).pixels, picture.pixels)
    plain = text_to_image(model, PROMPT, **CALL)[0].pixels
    assert not np.array_equal(plain, picture.pixels)
    bare = replace(read, settings={key: value for key, value in read.settings.items() if key != "adapters"})
    again = replay(model, bare)
    assert np.array_equal(again.pixels, plain)
    assert any("the LoRA 'style' in the prompt was not used" in note for note in again.recipe.notes)


def test_replay_checks_the_file(folder: Path, sd_folder: Path, tmp_path: Path) -> None:
    from shutil import copy

    model = diffgen.load(sd_folder)
    file = tmp_path / "style.safetensors"
    copy(folder / "style.safetensors", file)
    [picture] = text_to_image(model, PROMPT, adapters=[file], **CALL)
    file.unlink()
    with pytest.raises(UsageError, match="the recipe needs the adapter 'style', and there is none at"):
        replay(model, picture.recipe)
    assert np.array_equal(replay(model, picture.recipe, folders=[folder]).pixels, picture.pixels)
    copy(folder / "Face.safetensors", file)
    with pytest.raises(UsageError, match="is not the adapter of the recipe: its SHA-256 is"):
        replay(model, picture.recipe)


def test_a_recipe_cannot_allow_a_pickle(folder: Path, sd_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, file = diffgen.load(sd_folder), tmp_path / "style.pt"
    torch.save(load_file(folder / "style.safetensors"), file)
    [picture] = text_to_image(model, PROMPT, adapters=[Adapter(file, allow_pickle=True)], **CALL)
    adapting._ALLOWED.clear()
    with pytest.raises(CheckpointError, match="is a pickle"):
        replay(model, picture.recipe)
    assert np.array_equal(replay(model, picture.recipe, allow_pickle=True).pixels, picture.pixels)
    adapting._ALLOWED.clear()


@pytest.mark.parametrize(("entries", "says"), [
    ("x", "must be a list of tables"), ([1], "is a table with a file"), ([{"file": 3}], "is a table with a file"),
    ([{"file": "x", "blocks": 3}], "blocks of an adapter are a table"), ([{"file": "x", "strength": "1"}], "finite"),
    ([{"file": "x"}], "there is none at x"),
])  # fmt: skip
def test_malformed_entries_are_one_sentence(entries: Any, says: str, sd_folder: Path) -> None:
    with pytest.raises(UsageError, match=says):
        prepare(diffgen.load(sd_folder), PROMPT, settings={"adapters": entries}, **CALL)


def test_tags_in_the_negative_prompt_are_refused(folder: Path, sd_folder: Path) -> None:
    with pytest.raises(UsageError, match="the negative prompt has a LoRA tag"):
        prepare(diffgen.load(sd_folder), PROMPT, negative="<lora:style>", adapter_folders=[folder], **CALL)


def test_every_task_hands_its_patches_to_the_plan() -> None:
    for file in (Path(__file__).resolve().parents[2] / "pipelines").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Plan":
                words = {keyword.arg for keyword in node.keywords}
                assert "patches" in words, f"{file.name} makes a Plan without patches=adapting.patches(recipe, family)"


def test_naming_an_adapter_does_not_import_torch() -> None:
    code = "import sys; from diffgen.adapters import parse; parse('a:0.5'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
