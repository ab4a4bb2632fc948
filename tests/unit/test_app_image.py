"""`diffgen image` from the command line to the files, on tiny random weights."""

from __future__ import annotations

import errno
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffgen.app import display, startup
from diffgen.app.cli import run
from diffgen.media import load_image, read_recipe
from diffgen.recipe import Recipe


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)  # two threads in two processes on two busy cores take many times as long


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong has to be found before the model is loaded."""

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(startup, "load_model", refuse)


def files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def recipe_of(path: str) -> Recipe:
    found = read_recipe(path)
    assert found is not None
    return found


def damaged(folder: Path, to: Path, part: str = "unet") -> tuple[Path, Path]:
    """A copy of a checkpoint, and the weight file of one of its parts."""
    shutil.copytree(folder, to)
    return to, next((to / part).glob("*.safetensors"))


def test_a_picture(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["a red apple", "--seed", "7", "--steps", "2", "--model", str(sd_folder), "--size", "64x32"]
    assert run(["image", *arguments, "-o", "a.png", "--set", "eta=0.5", "--sampler", "Euler a"]) == 0
    assert capsys.readouterr() == ("a.png\n", "")
    assert load_image("a.png").shape == (32, 64, 3)
    recipe = recipe_of("a.png")
    assert (recipe.prompt, recipe.seed, recipe.steps, recipe.sampler) == ("a red apple", 7, 2, "euler_ancestral")
    assert recipe.settings["eta"] == 0.5
    assert recipe.threads and recipe.device == "cpu" and recipe.dtype == "float32" and recipe.model_hash


def test_several_prompts_and_pictures_with_a_contact_sheet(
    sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["image", "a cat", "a tree", "-n", "2", "--seed", "3", "--steps", "1", "--model", str(sd_folder),
                "--json", "--batch", "2"]) == 0  # fmt: skip
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == ["picture"] * 4 + ["contact sheet"]
    assert [(line["recipe"]["prompt"], line["recipe"]["seed"], line["recipe"]["batch"]) for line in lines[:4]] == [
        ("a cat", 3, 2), ("a cat", 4, 2), ("a tree", 3, 2), ("a tree", 4, 2),
    ]  # fmt: skip
    assert sorted(line["file"] for line in lines) == files()
    assert [Path(line["file"]).name for line in lines] == [
        "a-cat-3.png", "a-cat-4.png", "a-tree-3.png", "a-tree-4.png", "a-cat-3-sheet.png",
    ]  # fmt: skip


def test_arrays_are_not_rounded(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--seed", "7", "--steps", "1", "--model", str(sd_folder), "--no-sheet", "-n", "2"]
    assert run(["image", "a cat", *common, "-o", "x.npz"]) == 0
    assert run(["image", "a cat", *common, "-o", "x.png"]) == 0
    assert capsys.readouterr().out.split() == ["x.npz", "x-1.png", "x-2.png"]
    with np.load("x.npz") as found:
        assert found["pixels"].dtype == np.float32 and found["pixels"].shape == (2, 64, 64, 3)
        assert found["latents"].dtype == np.float32 and found["latents"].shape == (2, 4, 1, 8, 8)
        assert ((found["pixels"][1] * 255).round() == (load_image("x-2.png") * 255).round()).all()
        assert (found["pixels"] * 255 % 1 != 0).any()
    assert files() == ["x-1.png", "x-2.png", "x.npz"]


def test_wildcards_are_drawn_from_each_pictures_seed(sd_folder: Path) -> None:
    Path("words").mkdir()
    Path("words/animal.txt").write_text("cat\ndog\n")
    common = ["--steps", "1", "--model", str(sd_folder), "--wildcards", "words", "--no-sheet"]
    template = "a {red|blue|green} __animal__"
    assert run(["image", template, "-n", "3", "--seed", "1", *common, "-o", "a.png"]) == 0
    assert run(["image", template, "--seed", "3", *common, "-o", "b.png"]) == 0
    found = [recipe_of(f"a-{k}.png") for k in (1, 2, 3)]
    assert len({recipe.prompt for recipe in found}) > 1
    assert not any(sign in recipe.prompt for recipe in found for sign in "{|_")
    assert {recipe.extra["Template"] for recipe in found} == {template}
    assert recipe_of("b.png").prompt == found[2].prompt
    assert (load_image("b.png") == load_image("a-3.png")).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["  "], "the prompt is empty"),
        (["{|}"], "the prompt is empty"),
        (["a cat", "--sampler", "eulr"], "unknown sampler 'eulr'"),
        (["a cat", "--schedule", "karas"], "unknown schedule 'karas'; did you mean karras"),
        (["a cat", "--size", "big"], "WIDTHxHEIGHT"),
        (["a cat", "--steps", "0"], "steps must be at least 1"),
        (["a cat", "--count", "0"], "count must be at least 1"),
        (["a cat", "--batch", "-1"], "batch must be at least 1"),
        (["a cat", "--guidance", "nan"], "guidance must be at least 0"),
        (["a cat", "--seed", "-1"], "seed must be 0 to"),
        (["a cat", "--dtype", "fp8"], "unknown dtype 'fp8'"),
        (["a cat", "--quality", "0"], "quality"),
        (["a cat", "--model", "missing"], "there is no model at missing"),
        (["a cat", "-o", "a.bmp"], "unknown picture format '.bmp'"),
        (["an __animal__"], "no wildcard folder is given"),
        (["a {red"], "is never closed"),
        (["a cat", "--nope"], "no such option: --nope"),
        ([], "missing argument"),
        (["a cat", "--seed", "x"], "invalid value for '--seed'"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_loading")
def test_wrong_arguments_are_one_sentence_before_anything_loads(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    box = [] if "--model" in arguments else ["--model", str(request.getfixturevalue("sd_folder"))]
    assert run(["image", *arguments, *box]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("diffgen: ") and len(err.splitlines()) == 1
    assert said in err
    assert files() == []


def test_a_size_the_model_cannot_draw(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "a cat", "--size", "130x127", "--model", str(sd_folder), "-o", "a.png"]) == 2
    assert "multiples of 8, such as 128x128" in capsys.readouterr().err
    assert files() == []


@pytest.mark.usefixtures("no_loading")
def test_a_taken_name_and_a_locked_folder_are_found_before_loading(
    sd_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.png").write_text("mine")
    assert run(["image", "a cat", "--model", str(sd_folder), "-o", "a.png"]) == 2
    assert "a.png exists already" in capsys.readouterr().err

    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("diffgen.media.files.open", refuse, raising=False)
    assert run(["image", "a cat", "--model", str(sd_folder), "-o", "b.png"]) == 2
    assert "cannot write b.png: that disk is read-only" in capsys.readouterr().err
    assert Path("a.png").read_text() == "mine"
    assert files() == ["a.png"]


def test_a_full_disk(sd_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diffgen.media.files.os.fsync", full)
    assert run(["image", "a cat", "--steps", "1", "--model", str(sd_folder), "-o", "a.png"]) == 1
    assert capsys.readouterr() == ("", "diffgen: cannot write a.png: the disk is full\n")
    assert files() == []


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_truncated_checkpoint(
    part: str, sd_folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, weights = damaged(sd_folder, tmp_path_factory.mktemp("cut") / "sd", part)
    weights.write_bytes(weights.read_bytes()[:-100])
    assert run(["image", "a cat", "--steps", "1", "--model", str(folder), "-o", "a.png"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and str(folder / part) in err
    assert files() == []


def test_a_pickle_is_refused(
    sd_folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, weights = damaged(sd_folder, tmp_path_factory.mktemp("pickle") / "sd")
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    assert run(["image", "a cat", "--model", str(folder), "-o", "a.png"]) == 2
    assert "is a pickle, which can run code" in capsys.readouterr().err
    assert files() == []


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_nan_weights(
    part: str, sd_folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    folder, weights = damaged(sd_folder, tmp_path_factory.mktemp("nan") / "sd", part)
    tensors = load_file(weights)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, weights)
    assert run(["image", "a cat", "--steps", "1", "--model", str(folder), "-o", "a.png"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "damaged" in err
    assert files() == []


def test_a_prompt_of_five_thousand_words(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "apple " * 5000, "--steps", "1", "--model", str(sd_folder), "-o", "a.png"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and len(err) < 500
    assert files() == []


class StopAt(display.Display):
    """Sends this process a Ctrl-C at one step, as a terminal would."""

    def __init__(self, first: int, step: int) -> None:
        self.at = first, step

    def step(self, event: Any) -> None:
        if (event.first, event.step) == self.at:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_keeps_what_is_whole_and_says_so(
    sd_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffgen.app.image.new_display", lambda *more: StopAt(1, 5))
    assert run(["image", "a cat", "-n", "3", "--steps", "6", "--model", str(sd_folder), "-o", "a.png"]) == 130
    assert capsys.readouterr() == ("a-1.png\n", "diffgen: stopped at step 5 of 6 of picture 2 of 3; kept: a-1.png\n")
    assert files() == ["a-1.png"]


def test_ctrl_c_before_the_first_picture(
    sd_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffgen.app.image.new_display", lambda *more: StopAt(0, 5))
    assert run(["image", "a cat", "--steps", "6", "--model", str(sd_folder), "-o", "a.npz"]) == 130
    assert capsys.readouterr().err == "diffgen: stopped at step 5 of 6; kept: nothing\n"
    assert files() == []


def test_strict_makes_a_note_an_error_and_keeps_the_picture(
    sd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["image", "a cat", "--negative", "dog", "--guidance", "1", "--steps", "1", "--model", str(sd_folder)]
    assert run([*common, "-o", "a.png"]) == 0
    assert "note: the negative prompt was not used" in capsys.readouterr().err
    assert run([*common, "-o", "b.png", "--strict"]) == 1
    assert "--strict" in capsys.readouterr().err.splitlines()[-1]
    assert files() == ["a.png", "b.png"]


def test_lossy_formats_hold_the_recipe_too(sd_folder: Path) -> None:
    for format in ("jpeg", "webp"):
        assert run(["image", "a cat", "--seed", "5", "--steps", "1", "--model", str(sd_folder), "-o", "out/",
                    "--format", format, "--quality", "80"]) == 0  # fmt: skip
    assert files() == ["out/a-cat-5.jpg", "out/a-cat-5.webp"]
    assert {recipe_of(name).seed for name in files()} == {5}
