"""Other tools' pictures become recipes; damaged metadata becomes a note, never an error."""

from __future__ import annotations

import copy
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


def node(kind: str, **inputs):
    return {"class_type": kind, "inputs": inputs}


SIMPLE = {
    "3": node(
        "KSampler",
        **{"seed": 5, "steps": 20, "cfg": 8.0, "sampler_name": "dpmpp_2m_sde_gpu", "scheduler": "karras"},
        **{"denoise": 1.0, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0]},
        latent_image=["5", 0],
    ),
    "4": node("CheckpointLoaderSimple", ckpt_name="SD1.5\\v1-5-pruned.safetensors"),
    "5": node("EmptyLatentImage", width=512, height=640, batch_size=1),
    "6": node("CLIPTextEncode", text="a red apple", clip=["11", 0]),
    "7": node("CLIPTextEncode", text="blurry", clip=["11", 0]),
    "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
    "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    "10": node(
        "LoraLoader", lora_name="pixel.safetensors", strength_model=0.8, model=["4", 0], clip=["4", 1]
    ),
    "11": node("CLIPSetLastLayer", stop_at_clip_layer=-2, clip=["10", 1]),
}
FLUX = {
    "s": node(
        "SamplerCustomAdvanced",
        **{"noise": ["n", 0], "guider": ["g", 0], "sampler": ["k", 0], "sigmas": ["b", 0]},
        latent_image=["l", 0],
    ),
    "n": node("RandomNoise", noise_seed=["seed", 0]),
    "seed": node("PrimitiveInt", value=77),
    "g": node("BasicGuider", model=["m", 0], conditioning=["f", 0]),
    "k": node("KSamplerSelect", sampler_name="euler"),
    "b": node("BasicScheduler", scheduler="simple", steps=4, denoise=1, model=["m", 0]),
    "l": node("EmptySD3LatentImage", width=["w", 0], height=1024, batch_size=1),
    "w": node("INTConstant", value=768),
    "m": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
    "f": node("FluxGuidance", guidance=3.5, conditioning=["t", 0]),
    "t": node("CLIPTextEncode", text=["text", 0], clip=["c", 0]),
    "text": node("PrimitiveStringMultiline", value="a city\nat night"),
    "c": node("DualCLIPLoader", clip_name1="a", clip_name2="b"),
    "out": node("PreviewImage", images=["d", 0]),
    "d": node("VAEDecode", samples=["s", 0]),
}


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


def test_comfyui_graph(tmp_path):
    found = describe(png(tmp_path, prompt=json.dumps(SIMPLE), workflow="{}"))
    assert found.tool == "ComfyUI" and found.notes == ()
    assert found.recipe == Recipe(
        **{"prompt": "a red apple", "negative": "blurry", "seed": 5, "steps": 20, "guidance": 8.0},
        **{"sampler": "dpmpp_2m_sde", "schedule": "karras", "width": 512, "height": 640},
        **{"model": "v1-5-pruned", "settings": {"clip_skip": 2}},
        extra={"loras": [{"name": "pixel.safetensors", "weight": 0.8}]},
    )


def test_comfyui_custom_sampler_and_linked_values():
    recipe = describe_texts({"prompt": json.dumps(FLUX)}).recipe
    assert recipe == Recipe(
        **{"prompt": "a city\nat night", "seed": 77, "steps": 4, "sampler": "euler", "schedule": "simple"},
        **{"width": 768, "height": 1024, "model": "flux1-dev", "settings": {"distilled_guidance": 3.5}},
    )


def test_comfyui_two_samplers_and_control():
    graph = copy.deepcopy(SIMPLE)
    graph["20"] = node(
        "KSampler",
        **{"seed": 9, "steps": 12, "cfg": 5, "sampler_name": "uni_pc", "scheduler": "normal", "denoise": 0.5},
        **{"model": ["4", 0], "positive": ["21", 0], "negative": ["21", 1], "latent_image": ["22", 0]},
    )
    graph["21"] = node(
        "ControlNetApplyAdvanced", positive=["23", 0], negative=["7", 0], control_net=["24", 0], strength=0.7
    )
    graph["22"] = node("LatentUpscaleBy", samples=["3", 0], scale_by=1.5)
    graph["23"] = node("ConditioningConcat", conditioning_to=["6", 0], conditioning_from=["25", 0])
    graph["25"] = node("CLIPTextEncode", text="on a table", clip=["4", 1])
    graph["8"]["inputs"]["samples"] = ["20", 0]
    graph["30"] = node("PreviewImage", images=["31", 0])
    graph["31"] = node("VAEDecode", samples=["3", 0])
    found = describe_texts({"prompt": json.dumps(graph)})
    recipe = found.recipe
    assert recipe is not None and recipe.prompt == "a red apple\non a table" and recipe.negative == "blurry"
    assert (recipe.seed, recipe.steps, recipe.sampler) == (9, 12, "unipc")
    assert recipe.settings["strength"] == 0.5 and (recipe.width, recipe.height) == (512, 640)
    assert any("2 samplers" in note for note in found.notes)


@pytest.mark.parametrize("table_links", [False, True])
def test_comfyui_editor_file(table_links):
    links, nodes = [], []
    kinds = {
        **{"3": [5, "randomize", 20, 8.0, "euler", "simple", 0.6], "4": ["v1-5.ckpt"], "5": [512, 640, 1]},
        **{
            "6": ["a red apple"],
            "7": ["blurry"],
            "10": ["pixel.safetensors", 0.8, 1.0],
            "11": [-2],
            "9": ["x"],
        },
    }
    for key, value in SIMPLE.items():
        inputs = []
        for name, source in value["inputs"].items():
            if isinstance(source, list):
                number = len(links) + 1
                links.append([number, int(source[0]), source[1], int(key), len(inputs), "X"])
                inputs.append({"name": name, "type": "X", "link": number})
        inputs.append({"name": "free", "type": "X", "link": None})
        nodes.append(
            {"id": int(key), "type": value["class_type"], "inputs": inputs, "mode": 4 * (key == "10")}
        )
        nodes[-1]["widgets_values"] = kinds.get(key)
    if table_links:
        links = [{"id": a, "origin_id": b, "origin_slot": c, "target_id": d} for a, b, c, d, *_ in links]
    found = describe_texts({"workflow": json.dumps({"nodes": nodes, "links": links})})
    recipe = found.recipe
    assert recipe is not None and (recipe.prompt, recipe.negative) == ("a red apple", "blurry")
    assert (recipe.seed, recipe.steps, recipe.guidance, recipe.model) == (5, 20, 8.0, "v1-5")
    assert recipe.settings == {"clip_skip": 2, "strength": 0.6}
    # The LoRA is bypassed: the model is found through it, and it is not listed.
    assert "loras" not in recipe.extra


def test_comfyui_webp_keeps_its_graphs_in_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0110] = "prompt:" + json.dumps(SIMPLE)
    exif[0x010F] = "workflow:{}"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.webp", exif=exif)
    found = describe(tmp_path / "x.webp")
    assert found.tool == "ComfyUI" and found.recipe is not None and found.recipe.seed == 5


def test_a_graph_without_sampler_falls_back_to_the_text():
    texts = {"prompt": json.dumps({"1": node("LoadImage")}), "parameters": A1111}
    found = describe_texts(texts)
    assert found.tool == "AUTOMATIC1111" and found.recipe is not None and found.recipe.seed == 42
    only = describe_texts({"prompt": texts["prompt"]})
    assert only.tool == "ComfyUI" and only.recipe is None and "no sampler" in only.notes[0]


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
        **{"task": "image_to_image", "settings": {"strength": 0.6}, "versions": {"InvokeAI": "4.2.0"}},
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
    assert recipe.settings == {"rescale": 0.2} and recipe.extra == {"sm": False}
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


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_graphs_with_anything_in_them_never_crash(data):
    graph = copy.deepcopy(data.draw(st.sampled_from([SIMPLE, FLUX])))
    keys = sorted(graph)
    for _ in range(3):
        target = graph[data.draw(st.sampled_from(keys))]
        if data.draw(st.booleans()) and isinstance(target, dict):
            # Links to anywhere make cycles.
            name = data.draw(st.sampled_from(sorted(target.get("inputs") or {"x": 0})))
            if isinstance(target.get("inputs"), dict):
                target["inputs"][name] = [data.draw(st.sampled_from(keys)), 0]
                target["inputs"][data.draw(st.sampled_from(["text", "positive", "seed"]))] = data.draw(JSON)
        else:
            graph[data.draw(st.sampled_from(keys))] = data.draw(JSON)
    describe_texts({"prompt": json.dumps(graph)})
    describe_texts({"workflow": json.dumps({"nodes": list(graph.values()), "links": data.draw(JSON)})})


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "Dream", "Software"]), JSON.map(json.dumps) | st.text(max_size=30)
    )
)
def test_any_texts_never_crash(texts):
    describe_texts(texts)
