"""`diffgen samplers`, `models` and `show`, and that none of them waits for torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffgen.app import models, samplers
from diffgen.app.cli import COMMANDS, run
from diffgen.media import save_image
from diffgen.recipe import Recipe
from diffgen.samplers import SAMPLERS
from diffgen.schedules import SCHEDULES

PIXELS = np.full((8, 8, 3), 0.5, np.float32)
RECIPE = Recipe(prompt="a red apple", seed=7, steps=20, sampler="dpmpp_2m", width=8, height=8, settings={"eta": 0.5})


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_tables_are_those_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["samplers"]) == 0
    out = capsys.readouterr().out
    for name in (*SAMPLERS, *SCHEDULES):
        assert any(line.startswith(name + " ") for line in out.splitlines()), name
    assert run(["samplers", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["samplers"]] == list(SAMPLERS)
    assert [row["name"] for row in document["schedules"]] == list(SCHEDULES)
    assert document == json.loads(json.dumps(samplers.tables()))


def test_models_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = Path("models/owner/good"), Path("models/bad")
    for folder in (good / "unet", bad):
        folder.mkdir(parents=True)
    (good / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (good / "unet" / "model.safetensors").write_bytes(b"x" * 3_000_000)
    (bad / "model_index.json").write_text("{")
    assert run(["models", "--json"]) == 0
    found = {one["model"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["models/owner/good"]["size"] == 3_000_000
    assert found["models/owner/good"]["pipeline"] == "StableDiffusionPipeline"
    assert "cannot be read" in found["models/bad"]["problem"]
    assert run(["models", "--dir", "models/owner"]) == 0
    assert "3 MB" in capsys.readouterr().out
    assert run(["models", "--dir", "nowhere"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_no_models_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find", lambda name: ("box", Path("nothing")))
    assert run(["models"]) == 0
    assert "no models here" in capsys.readouterr().out


def test_show_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    save_image("a.png", PIXELS, RECIPE)
    assert run(["show", "a.png"]) == 0
    out = capsys.readouterr().out
    assert "a.png (diffgen)" in out and "a red apple" in out and "eta 0.5" in out and "8 x 8" in out
    assert run(["show", "a.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Recipe.from_json(json.dumps(found["recipe"])) == RECIPE
    assert (found["tool"], found["file"]) == ("diffgen", "a.png")


def test_show_reads_other_tools(capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 8x8")
    Image.new("RGB", (8, 8)).save("web.png", pnginfo=info)
    assert run(["show", "web.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tool"] == "AUTOMATIC1111" and found["recipe"]["sampler"] == "euler_ancestral"


def test_show_says_which_picture_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    save_image("a.png", PIXELS, RECIPE)
    save_image("bare.png", PIXELS)
    assert run(["show", "a.png", "bare.png"]) == 1
    out, err = capsys.readouterr()
    assert "a red apple" in out
    assert err == "diffgen: nothing in bare.png says how it was made\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if COMMANDS[name].module != "diffgen.app.train"])
def test_every_command_teaches_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out and f"diffgen {name}" in out


def test_the_root_command(capsys: pytest.CaptureFixture[str]) -> None:
    from diffgen import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"diffgen {__version__}\n"
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in COMMANDS)
    assert run(["imag"]) == 2
    assert "Did you mean 'image'? See diffgen --help" in capsys.readouterr().err


def test_training_is_mounted_without_its_own_completion_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "diffgen train" in out and "autoencoder" in out and "--install-completion" not in out
    assert run(["evaluate", "--help"]) == 0
    assert " box " in capsys.readouterr().out


def test_nothing_light_imports_torch() -> None:
    save_image("a.png", PIXELS, RECIPE)
    script = (
        "import sys\n"
        "from diffgen.app.cli import run\n"
        "assert run(['--help']) == 0\n"
        "light = {'diffgen.app.image', 'diffgen.app.train', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not light, light\n"
        "for arguments in (['samplers'], ['models'], ['show', 'a.png'], ['image', '--help'], ['image', ' '],\n"
        "                  ['replay', '--help']):\n"
        "    run(arguments)\n"
        "    heavy = {'torch', 'diffusers', 'transformers', 'scipy'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    script = "from diffgen.app.cli import main; import sys; sys.argv = ['diffgen', 'samplers']; main()"
    done = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_shell_completes_commands_options_and_names() -> None:
    script = "from diffgen.app.cli import main; import sys; sys.argv = ['diffgen']; main()"
    asked = {"diffgen im": "image", "diffgen image --sam": "--sampler", "diffgen image --sampler dpmpp_2": "dpmpp_2m"}
    for words, wanted in asked.items():
        told = {"_DIFFGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | told, capture_output=True, text=True, check=False
        )
        assert wanted in done.stdout.split()
