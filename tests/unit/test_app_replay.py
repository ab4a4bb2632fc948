"""`diffgen replay`: the same picture, or what is otherwise."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffgen.app.cli import run
from diffgen.media import load_image, read_recipe, save_image


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pictures(sd_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures drawn together in bfloat16, one in float32, and one as JPEG."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("pictures")
    common = ["image", "a red apple", "--seed", "7", "--steps", "2", "--model", str(sd_folder), "--no-sheet"]
    assert run([*common, "-n", "3", "--batch", "3", "--dtype", "bf16", "-o", str(folder / "b.png")]) == 0
    assert run([*common, "-o", str(folder / "a.png"), "--sampler", "euler_ancestral"]) == 0
    assert run([*common, "-o", str(folder / "a.jpg"), "--sampler", "euler_ancestral"]) == 0
    return folder


@pytest.mark.parametrize("name", ["a.png", "b-1.png", "b-3.png"])
def test_the_same_to_the_bit(
    name: str, pictures: Path, sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["replay", str(pictures / name), "--verify", "--model", str(sd_folder)]) == 0
    assert capsys.readouterr() == (f"{pictures / name}: the same to the bit\n", "")


def test_a_lossy_file_is_compared_as_far_as_it_goes(
    pictures: Path, sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["replay", str(pictures / "a.jpg"), "--verify", "--model", str(sd_folder)]) == 0
    assert "as far as a format that loses detail shows" in capsys.readouterr().out


def test_without_verify_it_is_drawn_anew(pictures: Path, sd_folder: Path) -> None:
    assert run(["replay", str(pictures / "b-2.png"), "--model", str(sd_folder), "-o", "again.png"]) == 0
    assert (load_image("again.png") == load_image(pictures / "b-2.png")).all()
    assert read_recipe("again.png") == read_recipe(pictures / "b-2.png")
    assert run(["replay", str(pictures / "b-2.png"), "--model", str(sd_folder), "-o", "again.png"]) == 2


def test_another_model_is_named(
    pictures: Path, sd_folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    other = tmp_path_factory.mktemp("other") / "sd"
    shutil.copytree(sd_folder, other)
    weights = next((other / "unet").glob("*.safetensors"))
    save_file({name: tensor * 1.01 for name, tensor in load_file(weights).items()}, weights)
    capsys.readouterr()
    assert run(["replay", str(pictures / "a.png"), "--verify", "--model", str(other)]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "is not what its recipe draws here" in err and "the model hash was" in err
    assert run(["replay", str(pictures / "a.png"), "--model", str(other), "-o", "other.png"]) == 0
    assert "note: the model hash was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"eta": 0.5}}, "nothing that the recipe records"),
        ({"versions": {"torch": "1.0"}, "guidance": 2.0}, "the version of torch was '1.0'"),
        ({"threads": 4096, "seed": 8}, "the threads was 4096 and is 1"),
        ({"device": "cuda", "seed": 8}, "the device was 'cuda' and is 'cpu'"),
    ],
)
def test_what_is_otherwise_is_named(
    changes: dict[str, object], said: str, pictures: Path, sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "device" in changes and torch.cuda.is_available():
        pytest.skip("this machine has the device")
    recipe = read_recipe(pictures / "a.png")
    assert recipe is not None
    save_image("lie.png", load_image(pictures / "a.png"), replace(recipe, **changes))
    assert run(["replay", "lie.png", "--verify", "--json", "--model", str(sd_folder)]) == 1
    out, err = capsys.readouterr()
    assert said in err
    verdict = json.loads(out)
    assert not verdict["same"] and not verdict["passed"] and verdict["largest"] > 0


def test_a_resized_file_is_told(pictures: Path, sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = read_recipe(pictures / "a.png")
    save_image("small.png", load_image(pictures / "a.png")[:32], recipe)
    assert run(["replay", "small.png", "--verify", "--model", str(sd_folder)]) == 1
    assert "small.png is 64 x 32 pixels, and its recipe draws 64 x 64" in capsys.readouterr().err


def test_files_that_cannot_be_drawn_again(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = read_recipe(pictures / "a.png")
    assert recipe is not None
    pixels = load_image(pictures / "a.png")
    save_image("bare.png", pixels)
    save_image("seedless.png", pixels, replace(recipe, seed=None))
    save_image("clip.png", pixels, replace(recipe, task="extend", frames=5))
    Path("text.png").write_text("no picture")
    for name, said in {
        "bare.png": "does not say how it was made", "seedless.png": "holds no seed", "clip.png": "was made by extend",
        "text.png": "is not a picture", "missing.png": "there is no file missing.png",
        str(pictures / "a.png"): "say where it is with --model",
    }.items():  # fmt: skip
        capsys.readouterr()
        assert run(["replay", name]) == 2
        err = capsys.readouterr().err
        assert said in err and len(err.splitlines()) == 1


def test_the_model_is_found_by_its_name_below_models(pictures: Path, sd_folder: Path) -> None:
    recipe = read_recipe(pictures / "a.png")
    assert recipe is not None and recipe.model
    Path("models").mkdir()
    shutil.copytree(sd_folder, Path("models") / recipe.model)
    assert run(["replay", str(pictures / "a.png"), "--verify"]) == 0
