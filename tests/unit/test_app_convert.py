"""`diffgen convert` as a person uses it: there and back, what is refused, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffgen.app.cli import run
from tests import originals


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_there_and_back_is_the_same_to_the_bit(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(sd_folder), "one.safetensors"]) == 0
    assert capsys.readouterr().out.startswith("one.safetensors  ")
    assert run(["convert", "one.safetensors", "back", "--config", str(sd_folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["target"] == "back" and told["notes"] == []
    for file in sd_folder.glob("*/*.safetensors"):
        copy = Path("back") / file.parent.name / file.name
        assert told["files"][str(copy)] == copy.stat().st_size
        mine, theirs = load_file(copy), load_file(file)
        assert mine.keys() == theirs.keys() and all(mine[key].equal(theirs[key]) for key in mine)
    picture = ["a cat", "--seed", "1", "--steps", "1", "--size", "64"]
    assert run(["image", *picture, "--model", "back", "-o", "a.png"]) == 0
    assert run(["image", *picture, "--model", str(sd_folder), "-o", "b.png"]) == 0
    assert run(["image", *picture, "--model", "one.safetensors", "--config", str(sd_folder), "-o", "c.png"]) == 0
    from diffgen.media import load_image

    assert (load_image("a.png") == load_image("b.png")).all() and (load_image("b.png") == load_image("c.png")).all()


def test_a_pickle_becomes_safetensors_under_the_same_names(capsys: pytest.CaptureFixture[str]) -> None:
    state = {"a.weight": torch.ones(3, 2), "b": torch.arange(4)}
    torch.save({"state_dict": state}, "model.ckpt")
    assert run(["convert", "model.ckpt", "model.safetensors"]) == 2
    assert "is a pickle" in capsys.readouterr().err and not Path("model.safetensors").exists()
    assert run(["convert", "model.ckpt", "model.safetensors", "--allow-pickle", "--dtype", "fp16"]) == 0
    assert load_file("model.safetensors")["a.weight"].dtype == torch.float16
    assert load_file("model.safetensors")["b"].equal(state["b"])


def test_nothing_is_overwritten_unless_told(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.safetensors").write_text("mine")
    assert run(["convert", str(sd_folder), "there.safetensors"]) == 2
    assert "there.safetensors exists; give another name, or overwrite=True (--force)" in capsys.readouterr().err
    assert Path("there.safetensors").read_text() == "mine"
    assert run(["convert", str(sd_folder), "there.safetensors", "--force"]) == 0
    Path("folder").mkdir()
    Path("folder/old.txt").touch()
    assert run(["convert", str(sd_folder), "folder", "--force"]) == 0
    assert Path("folder/model_index.json").exists() and not Path("folder/old.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "x.safetensors"], "there is no model at nowhere"),
        (["FOLDER", "x.gguf"], ".gguf files are not written; accepted: a name ending in .safetensors, or a folder"),
        (["FOLDER", "x", "--dtype", "int9"], "unknown dtype 'int9'"),
        (["FOLDER", "x", "--vae", "nothing"], "there is nothing at nothing, given as --vae"),
        (["FOLDER", "x", "--kind", "sd99"], "unknown kind of model 'sd99'"),
        (["page.safetensors", "x"], "is an HTML page"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    sd_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    Path("page.safetensors").write_text("<html>log in</html>")
    assert run(["convert", *[str(sd_folder) if word == "FOLDER" else word for word in arguments]]) == 2
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told
    assert [path.name for path in Path().iterdir()] == ["page.safetensors"]


def test_a_conversion_that_fails_leaves_the_old_and_nothing_else(
    sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = originals.stable_diffusion(sd_folder, Path("model.safetensors"))
    state = load_file(file)
    del state["first_stage_model.decoder.conv_in.weight"]
    originals.save(file, state)
    Path("there").mkdir()
    assert run(["convert", "model.safetensors", "there", "--force", "--config", str(sd_folder)]) == 2
    assert "1 weights are missing, the first is decoder.conv_in.weight" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["model.safetensors", "there"]
