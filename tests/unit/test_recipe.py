"""The recipe as JSON (exact for any text) and as A1111's parameters text (exact where it can be)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffgen.errors import UsageError
from diffgen.foreign.names import SAMPLERS, SCHEDULES
from diffgen.foreign.parameters import split_values
from diffgen.recipe import Recipe, differences, installed_versions

TEXTS = st.text() | st.lists(
    st.sampled_from(
        ["Negative prompt: x", "Steps: 3", '"q"', "a, b: c", " ", "\n", "猫", "🍎", "\0", "{a|b}"]
    )
).map("\n".join)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
TABLES = st.dictionaries(st.text(), VALUES | st.lists(VALUES, max_size=3), max_size=3)
FULL = Recipe(
    prompt="3d emoji of a red apple",
    negative="blurry",
    seed=7,
    steps=25,
    sampler="dpmpp_2m",
    schedule="karras",
    guidance=3.0,
    width=128,
    height=128,
    model="box",
    model_hash="0123abcd",
    versions={"diffgen": "0.1.0"},
)


@settings(max_examples=60, deadline=None)
@given(prompt=TEXTS, negative=TEXTS, extras=TABLES, more=TABLES, notes=st.lists(TEXTS, max_size=2))
def test_json_is_exact_for_any_text(prompt, negative, extras, more, notes):
    recipe = Recipe(prompt=prompt, negative=negative, settings=extras, extra=more, notes=notes)
    text = recipe.to_json()
    assert text.isascii()
    assert Recipe.from_json(text) == recipe
    assert Recipe.from_json(text.encode()) == recipe


def representable(prompt: str, negative: str) -> bool:
    lines = prompt.split("\n")
    return not any(line.lstrip().startswith("Negative prompt:") for line in lines) and not (
        {"\r", "\0"} & set(prompt + negative)
    )


@settings(max_examples=100, deadline=None)
@given(
    prompt=TEXTS,
    negative=TEXTS,
    seed=st.integers(0, 2**64),
    guidance=st.floats(0, 1e6),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    model=st.text(min_size=1).filter(lambda text: "\0" not in text),
)
def test_parameters_round_trip(prompt, negative, seed, guidance, sampler, schedule, model):
    recipe = Recipe(
        prompt=prompt,
        negative=negative,
        seed=seed,
        steps=20,
        guidance=guidance,
        sampler=sampler,
        schedule=schedule,
        width=64,
        height=96,
        model=model,
        settings={"clip_skip": 2, "rescale": 0.7},
        extra={"Hires steps": "5", "Lora hashes": "a: 1, b: 2"},
        versions={"diffgen": "0.1.0"},
    )
    text = recipe.to_parameters()
    again = Recipe.from_parameters(text)
    if not representable(prompt, negative):
        # Every other value stands in the last line, which the prompts cannot disturb.
        again = Recipe(**{**vars(again), "prompt": prompt, "negative": negative})
    assert again == recipe


def test_parameters_text_is_what_a1111_writes():
    assert FULL.to_parameters() == (
        "3d emoji of a red apple\nNegative prompt: blurry\n"
        "Steps: 25, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 3.0, Seed: 7, Size: 128x128, "
        "Model hash: 0123abcd, Model: box, Version: diffgen 0.1.0"
    )
    assert Recipe().to_parameters() == ""
    assert 'Model: "a, b: c"' in Recipe(model="a, b: c").to_parameters()
    assert Recipe(prompt="\udc80").to_parameters() == "?"


def test_old_file_with_fused_names_hires_fields_and_lines_below():
    recipe = Recipe.from_parameters(
        "a cat,\r\n  on a mat\r\nNegative prompt: bad: hands,\r\nugly\r\n"
        "Steps: 20, Sampler: DPM++ 2M SDE Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        "Model hash: 45dee52b, Model: some, model, Denoising strength: 0.4, Clip skip: 2, "
        'Lora hashes: "one: 12, two: 34", Hashes: {"vae": "1", "model": "2"}, Hires upscale: 2, '
        "Hires resize: 0x0, Version: v1.6.0\r\nTemplate: a {cat|dog}"
    )
    assert (recipe.prompt, recipe.negative) == ("a cat,\n  on a mat", "bad: hands,\nugly")
    assert (recipe.sampler, recipe.schedule) == ("dpmpp_2m_sde", "karras")
    assert (recipe.steps, recipe.guidance, recipe.seed) == (20, 7.0, 965400086)
    assert (recipe.width, recipe.height, recipe.model) == (512, 768, "some, model")
    assert recipe.settings == {"strength": 0.4, "clip_skip": 2} and recipe.task == "image_to_image"
    assert recipe.extra == {
        "Lora hashes": "one: 12, two: 34",
        "Hashes": '{"vae": "1", "model": "2"}',
        "Hires upscale": "2",
        "Hires resize": "0x0",
        "after": "Template: a {cat|dog}",
    }
    assert recipe.versions == {"Version": "v1.6.0"}


@pytest.mark.parametrize(
    ("values", "sampler", "schedule"),
    [
        ("Sampler: Euler a", "euler_ancestral", None),
        ("Sampler: DPM++ 2M, Schedule type: Automatic", "dpmpp_2m", "karras"),
        ("Sampler: Euler, Schedule type: Automatic", "euler", "normal"),
        ("Sampler: Euler, Schedule type: Uniform", "euler", "normal"),
        ("Sampler: Euler, Schedule type: SGM Uniform", "euler", "sgm_uniform"),
        ("Sampler: DPM2 a Karras", "dpm_2_ancestral", "karras"),
        ("Sampler: Something New, Schedule type: Turbo", "Something New", "turbo"),
    ],
)
def test_names(values, sampler, schedule):
    recipe = Recipe.from_parameters(f"x\nSteps: 2, {values}, Seed: 1")
    assert (recipe.sampler, recipe.schedule) == (sampler, schedule)


def test_forge_keeps_two_scales_for_distilled_models():
    recipe = Recipe.from_parameters("x\nSteps: 4, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 1")
    assert recipe.guidance == 3.5 and recipe.settings == {} and recipe.extra == {}
    recipe = Recipe.from_parameters("x\nSteps: 4, CFG scale: 2, Distilled CFG Scale: 3.5, Seed: 1")
    assert recipe.guidance == 3.5 and recipe.settings == {"true_cfg": 2.0}


def test_parameters_without_values_or_with_bad_ones():
    assert Recipe.from_parameters("only a prompt: a, b") == Recipe(prompt="only a prompt: a, b")
    assert Recipe.from_parameters("a\nNegative prompt: b") == Recipe(prompt="a", negative="b")
    recipe = Recipe.from_parameters("a\nSteps: 20, Seed: many, Size: 0x7, CFG scale: -1e3")
    assert recipe.seed is None and recipe.extra == {"Seed": "many", "Size": "0x7"}
    assert recipe.guidance == -1000.0 and "Seed could not be read: 'many'" in recipe.notes


@settings(max_examples=60, deadline=None)
@given(TEXTS | st.lists(st.sampled_from(['"', ",", ":", "\\", "{", "a", " ", "Steps: 1"])).map("".join))
def test_any_text_is_read_without_error(text):
    Recipe.from_parameters(text)
    split_values(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "no json", "[]", "{}", "3", "[" * 100_000, "9" * 5000, '{"prompt": 3}'),
        *('{"prompt": "a", "seed": 1.5}', '{"prompt": "a", "steps": -1}', '{"prompt": "a", "seed": true}'),
        *('{"prompt": "a", "guidance": NaN}', '{"prompt": "a", "batch": null}'),
        *('{"prompt": "a", "settings": []}', '{"prompt": "a", "notes": "x"}'),
        *('{"prompt": "a", "extra": 1, "z": 2}', '{"prompt": "a", "width": 0}'),
        '{"prompt": "a", "versions": {"torch": 2}}',
    ],
)
def test_nonsense_is_refused(text):
    with pytest.raises(UsageError):
        Recipe.from_json(text)


def test_values_that_json_cannot_hold_are_refused_at_once():
    for value in (float("nan"), object(), {1, 2}):
        with pytest.raises(UsageError, match="settings"):
            Recipe(settings={"x": value})
    with pytest.raises(UsageError, match="guidance"):
        Recipe(guidance=float("inf"))


def test_unknown_fields_of_a_newer_version_are_kept():
    data = json.loads(FULL.to_json()) | {"diffgen_recipe": 9, "voices": 16, "extra": {"old": 1}}
    recipe = Recipe.from_json(json.dumps(data))
    assert recipe.extra == {"voices": 16, "old": 1}
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_cannot_be_changed_through_the_callers_dict():
    mine = {"shift": (1, 2)}
    recipe = Recipe(settings=mine)
    mine["shift"] = 3
    assert recipe.settings == {"shift": [1, 2]}


def test_differences_name_what_changed():
    other = Recipe(**{**vars(FULL), "model_hash": "ffff", "guidance": None, "versions": {"diffgen": "0.2.0"}})
    other = Recipe(**{**vars(other), "settings": {"eta": 0.5}, "notes": ["retried"]})
    assert differences(FULL, FULL) == []
    assert differences(FULL, other) == [
        "the guidance was 3.0 and is not known now",
        "the model hash was '0123abcd' and is 'ffff'",
        "the setting eta was not recorded and is 0.5",
        "the version of diffgen was '0.1.0' and is '0.2.0'",
    ]
    (sentence,) = differences(Recipe(prompt="word " * 50 + "cat"), Recipe(prompt="word " * 50 + "dog"))
    assert "cat" in sentence and "dog" in sentence and len(sentence) < 150


def test_import_is_light():
    code = (
        "import sys, diffgen.recipe, diffgen.media, diffgen.foreign, diffgen.media.sheet;"
        "print([m for m in ('torch', 'numpy', 'PIL', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert set(installed_versions()) == {"diffgen", "torch", "diffusers", "transformers"}
