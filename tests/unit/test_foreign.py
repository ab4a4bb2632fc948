"""Other tools' pictures become recipes; damaged metadata becomes a note, never an error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgen import media
from diffgen.errors import UsageError
from diffgen.foreign import describe, describe_texts
from diffgen.recipe import Recipe

A1111 = (
    "a cat, (best:1.2)\nNegative prompt: ugly\n"
    "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 42, Size: 512x768, "
    "Model hash: 45dee52b, Model: v1-5, Version: v1.10.1"
)


def png(folder, **texts: str):
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key.replace("_dash_", "-"), text)
    Image.new("RGB", (8, 8)).save(folder / "x.png", pnginfo=info)
    return folder / "x.png"


def test_a1111_png_jpeg_and_webp(tmp_path):
    expected = Recipe(
        **{"prompt": "a cat, (best:1.2)", "negative": "ugly", "steps": 20, "sampler": "euler_ancestral"},
        **{"schedule": "normal", "guidance": 7.0, "seed": 42, "width": 512, "height": 768},
        **{"model": "v1-5", "model_hash": "45dee52b", "versions": {"Version": "v1.10.1"}},
    )
    found = describe(png(tmp_path, parameters=A1111))
    assert (found.tool, found.recipe, found.notes) == ("AUTOMATIC1111", expected, ())
    assert found.raw == {"parameters": A1111}
    comments = [b"UNICODE\0" + A1111.encode("utf-16-be"), b"UNICODE\0" + A1111.encode("utf-16-le")]
    for comment in [*comments, b"ASCII\0\0\0" + A1111.encode()]:
        for name in ("x.jpg", "x.webp"):
            exif = Image.Exif()
            exif.get_ifd(0x8769)[0x9286] = comment
            Image.new("RGB", (8, 8)).save(tmp_path / name, exif=exif)
            assert describe(tmp_path / name).recipe == expected


@pytest.mark.parametrize(
    ("version", "tool"),
    [
        ("Version: f2.0.1v1.10.1-previous", "Forge"),
        ("App: SD.Next, Version: abc", "SD.Next"),
        ("Version: ComfyUI", "ComfyUI"),
        ("Version: diffgen 0.1.0", "diffgen"),
    ],
)
def test_relatives_of_a1111(version, tool):
    found = describe_texts({"parameters": f"{{red|blue}} cat\nSteps: 2, Seed: 3, {version}"})
    assert found.tool == tool and found.recipe is not None and found.recipe.prompt == "{red|blue} cat"


def test_our_own_picture(tmp_path):
    recipe = Recipe(prompt="猫", seed=1, steps=2, notes=("retried in float32",))
    for name in ("a.png", "a.jpg", "a.webp"):
        path = media.save_image(tmp_path / name, np.zeros((8, 8, 3), np.uint8), recipe)
        found = describe(path)
        assert (found.tool, found.recipe, found.notes) == ("diffgen", recipe, ("retried in float32",))


def test_invokeai_in_its_three_forms(tmp_path):
    new = {
        **{"generation_mode": "img2img", "positive_prompt": "a cat", "negative_prompt": "bad", "seed": 3},
        **{
            "steps": 30,
            "cfg_scale": 7.5,
            "scheduler": "dpmpp_2m_k",
            "width": 512,
            "height": 512,
            "strength": 0.6,
        },
        **{
            "model": {"name": "v1-5", "hash": "blake3:12", "base": "sd-1"},
            "app_version": "4.2.0",
            "clip_skip": 1,
            "rand": "cpu",
        },
    }
    found = describe(png(tmp_path, invokeai_metadata=json.dumps(new)))
    assert found.tool == "InvokeAI"
    assert found.recipe == Recipe(
        **{
            "prompt": "a cat",
            "negative": "bad",
            "seed": 3,
            "steps": 30,
            "guidance": 7.5,
            "sampler": "dpmpp_2m",
        },
        **{"schedule": "karras", "width": 512, "height": 512, "model": "v1-5", "model_hash": "blake3:12"},
        **{
            "task": "image_to_image",
            "settings": {"strength": 0.6, "clip_skip": 2},
            "versions": {"InvokeAI": "4.2.0"},
        },
        extra={"generation_mode": "img2img", "rand": "cpu"},
    )
    image = {
        "prompt": [{"prompt": "a cat [bad, ugly]", "weight": 1}],
        "steps": 50,
        "cfg_scale": 7.5,
        "seed": 8,
    }
    image |= {"sampler": "k_euler_a", "width": 512, "height": 640}
    old = {"model_weights": "sd-1.5", "model_hash": "cc6c", "app_version": "2.2.4", "image": image}
    recipe = describe(png(tmp_path, **{"sd_dash_metadata": json.dumps(old), "Dream": "x"})).recipe
    assert recipe is not None and (recipe.prompt, recipe.negative) == ("a cat", "bad, ugly")
    assert (recipe.sampler, recipe.model, recipe.seed) == ("euler_ancestral", "sd-1.5", 8)
    oldest = describe_texts({"Dream": '"a cat" -s 50 -S 123 -W512 -H 640 -C 7.5 -A k_lms -U 2'}).recipe
    assert oldest == Recipe(
        **{"prompt": "a cat", "steps": 50, "seed": 123, "width": 512, "height": 640, "guidance": 7.5},
        **{"sampler": "lms", "extra": {"U": "2"}},
    )


def test_novelai_and_swarmui(tmp_path):
    comment = {
        "prompt": "a cat",
        "uc": "bad",
        "steps": 28,
        "scale": 5,
        "seed": 9,
        "sampler": "k_euler_ancestral",
    }
    comment |= {"noise_schedule": "karras", "width": 832, "height": 1216, "cfg_rescale": 0.2, "sm": False}
    texts = {"Software": "NovelAI", "Source": "Stable Diffusion XL", "Comment": json.dumps(comment)}
    found = describe(png(tmp_path, **texts))
    recipe = found.recipe
    assert found.tool == "NovelAI" and recipe is not None and recipe.negative == "bad"
    assert (recipe.sampler, recipe.schedule, recipe.guidance) == ("euler_ancestral", "karras", 5.0)
    assert recipe.settings == {"guidance_rescale": 0.2} and recipe.extra == {"sm": False}
    assert describe_texts({"parameters": json.dumps(texts)}).recipe == recipe
    swarm = {
        "prompt": "a cat",
        "negativeprompt": "",
        "seed": 2,
        "steps": 8,
        "cfgscale": 1.0,
        "sampler": "euler",
    }
    found = describe_texts({"parameters": json.dumps({"sui_image_params": {**swarm, "model": "flux"}})})
    assert found.tool == "SwarmUI" and found.recipe is not None and found.recipe.model == "flux"


def test_pictures_that_say_nothing(tmp_path):
    found = describe(png(tmp_path))
    assert found.tool is None and found.recipe is None and found.notes == ()
    assert describe_texts({"Software": "Paint", "Comment": "hello", "prompt": "text"}).recipe is None
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(UsageError):
        describe(tmp_path / "x.txt")


KEYS = ["diffgen", "prompt", "workflow", "invokeai_metadata", "sd-metadata", "parameters", "Comment"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "text", ["{", "[]", "null", "3", '{"image": 1}', "[" * 50_000, '{"uc": 1, "image": []}']
)
def test_damaged_metadata_is_a_note(key, text):
    found = describe_texts({key: text})
    assert key == "parameters" or found.recipe is None
    if text == "{" and key not in ("Comment", "parameters"):
        assert found.notes and found.tool is not None


def test_foreign_values_that_a_recipe_refuses_are_kept():
    data = {
        "positive_prompt": "a",
        "seed": "random",
        "steps": -3,
        "width": 1.5,
        "model": {"name": 4},
        "x": "NaN",
    }
    text = json.dumps(data).replace('"NaN"', "NaN")
    found = describe_texts({"invokeai_metadata": text})
    assert found.recipe is not None and found.recipe.prompt == "a" and len(found.notes) == 4
    assert found.recipe.extra == {"seed": "random", "steps": -3, "width": 1.5, "model": 4, "x": "NaN"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "Dream", "Software"]), JSON.map(json.dumps) | st.text(max_size=30)
    )
)
def test_any_texts_never_crash(texts):
    describe_texts(texts)
