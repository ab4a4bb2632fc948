"""ComfyUI's graphs become recipes, in both of their forms, and no graph crashes the reader."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffgen.foreign import describe, describe_texts
from diffgen.recipe import Recipe

A1111 = "a cat\nSteps: 20, Sampler: Euler a, Seed: 42"


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
        **{"width": 768, "height": 1024, "model": "flux1-dev", "guidance": 3.5},
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
