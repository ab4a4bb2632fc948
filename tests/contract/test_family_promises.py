"""What every family promises, held for each variant's tiny checkpoint: its capabilities, its refusals, its room."""

from __future__ import annotations

import io
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diffgen
from diffgen.checkpoints import Model
from diffgen.errors import DiffgenError, UnsupportedError, UsageError
from diffgen.families import PIPELINES
from diffgen.pipelines import image_to_video, text_to_image, text_to_video
from diffgen.pipelines.tasks import CLIP_TASKS, refusal
from tests.parity.clips import CLIPS
from tests.parity.harness import Variant, picture, run_of, unit
from tests.parity.pictures import PICTURES

FAMILIES = Path(diffgen.__file__).parent / "families"
# Variants of one checkpoint differ in what they are asked for; one of each kind of checkpoint is enough.
KINDS = {str(getattr(one.make, "keywords", "")) + one.family: one for one in (*PICTURES, *CLIPS)}


@pytest.fixture(scope="module", params=KINDS.values(), ids=lambda variant: variant.title)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Variant, Model]:
    folder = tmp_path_factory.mktemp("tiny")
    request.param.make(folder)
    return request.param, diffgen.load(folder)


def draw(variant: Variant, model: Model, task: str, **options: Any) -> Any:
    """One picture or clip of two steps, by a task's own name."""
    options = {"seed": 1, "size": variant.sizes[0], "steps": 2, "negative": "", **options}
    if task == "text_to_image":
        return text_to_image(model, variant.prompt, **options)[0]
    options = {"frames": (variant.frames or (None,))[0], **options}
    if task == "text_to_video":
        return text_to_video(model, variant.prompt, **options)[0]
    run = run_of(variant, (False, 1, 0)) if variant.image else None
    held = variant.image(run) if variant.image and run else {0: picture(*variant.sizes[0])}
    return image_to_video(model, {at: unit(one) for at, one in held.items()}, variant.prompt, **options)[0]


def drawing(model: Model) -> str | None:
    """A task the checkpoint has, out of those that need no more than a prompt and a picture."""
    return next((t for t in ("text_to_image", "text_to_video", "image_to_video") if t in model.family.caps), None)


def test_tasks_are_the_capabilities(made: tuple[Variant, Model]) -> None:
    variant, model = made
    for task in ("text_to_image", "text_to_video", "image_to_video"):
        family = model.family
        refused = refusal(family.name, family.caps, family.spec, task) if task in CLIP_TASKS else None
        if task in family.caps or (task in CLIP_TASKS and refused is None):
            pixels = draw(variant, model, task).pixels
            assert np.isfinite(pixels).all() and pixels.std() > 1e-3
        else:
            with pytest.raises(UnsupportedError, match=f"{model.family.name} cannot do {task}"):
                draw(variant, model, task)


def test_a_negative_prompt_counts_where_it_is_a_capability(made: tuple[Variant, Model]) -> None:
    variant, model = made
    family, task = model.family, drawing(model)
    if task is None:
        pytest.skip("needs further pictures")
    embedded = "guidance_embedding" in family.caps
    taken = "negative_prompt" in family.caps
    options: dict[str, Any] = {"settings": {"true_cfg": 4.0}} if embedded and taken else {"guidance": 5.0}
    if not taken and not embedded:
        options["guidance"] = family.defaults.guidance
    plain = draw(variant, model, task, **options)
    other = draw(variant, model, task, **options, **{"negative": "a blue cat on a big house"})
    assert (np.abs(plain.pixels - other.pixels).max() > 1e-4) == taken
    assert any("prompt was not used" in note for note in other.recipe.notes) == (not taken)


def test_an_embedded_scale_counts(made: tuple[Variant, Model]) -> None:
    variant, model = made
    task = drawing(model)
    if "guidance_embedding" not in model.family.caps or task is None:
        pytest.skip("the network takes no scale, or needs further pictures")
    low, high = (draw(variant, model, task, guidance=scale) for scale in (1.0, 9.0))
    assert np.abs(low.pixels - high.pixels).max() > 1e-4


def test_decode_undoes_encode_in_scale(made: tuple[Variant, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    variant, model = made
    family, vae = model.family, model.family.components["vae"]
    encode, decode, found, given = vae.encode, vae.decode, [], []

    def encoding(*args: Any, **options: Any) -> Any:
        out = encode(*args, **options)
        found.append(out.latent_dist.mode() if hasattr(out, "latent_dist") else out[0])
        return out

    def decoding(z: torch.Tensor, *args: Any, **options: Any) -> Any:
        given.append(z)
        return decode(z, *args, **options)

    monkeypatch.setattr(vae, "encode", encoding)
    monkeypatch.setattr(vae, "decode", decoding)
    frames = 1 + (family.spec.frame_step or family.spec.frame_factor) if variant.frames else 1
    width, height = variant.sizes[0]
    pixels = picture(width, height).repeat(1, 1, frames, 1, 1)
    with torch.inference_mode():
        z = family.encode(pixels)
        assert tuple(z.shape) == family.spec.shape(batch=1, width=width, height=height, frames=frames)
        assert family.decode(z).shape == pixels.shape
    raw, back = torch.cat(found).flatten(), torch.cat(given).flatten()
    assert torch.allclose(back, raw, atol=1e-5 * float(raw.abs().max().clamp(min=1)))


def test_what_the_text_encoder_cannot_take_is_said(made: tuple[Variant, Model]) -> None:
    _, model = made
    family: Any = model.family
    if "edit" in family.caps and "pictures" in str(family.encode_text.__annotations__):
        pytest.skip("reads prompts beside pictures only")
    _, notes = family.encode_text(["a red apple " * 400])
    # CLIP alone reads prompts of any length, in pieces.
    readers = [net for name, net in family.components.items() if name.startswith("text_encoder")]
    chunked = all(type(net).__name__.startswith("CLIP") for net in readers)
    if readers:
        assert chunked or any("cut from the prompt" in note for note in notes)
    if not family.name.startswith(("stable-diffusion", "sdxl", "animatediff", "sd3")):
        with pytest.raises(UnsupportedError, match=f"{family.name} has no setting 'clip_skip'"):
            family.encode_text(["a cat"], clip_skip=2)


def test_a_picture_without_a_place_is_refused_by_name(made: tuple[Variant, Model]) -> None:
    _, model = made
    family: Any = model.family
    if "image_to_video" in family.caps:
        pytest.skip("takes frames")
    empty = diffgen.contracts.Conditioning()
    with pytest.raises(DiffgenError, match=f"^{family.name} takes .*; given: sketch"):
        family.attach(empty, {"sketch": torch.zeros(1, 3, 1, 64, 64)})


def test_a_size_that_cannot_be_drawn_is_named_or_cut_from_the_next(made: tuple[Variant, Model]) -> None:
    variant, model = made
    task, (width, height) = drawing(model), variant.sizes[0]
    if task is None:
        pytest.skip("needs further pictures")
    if variant.frames is None:
        with pytest.raises(UsageError, match=f"multiples of {model.family.spec.multiple}, such as"):
            draw(variant, model, task, size=(width + 1, height))
        return
    clip = draw(variant, model, task, size=(width - 1, height))
    assert clip.pixels.shape == (variant.frames[0], height, width - 1, 3)


def test_every_pipeline_that_is_loaded_is_proven() -> None:
    proven = {one.pipeline for one in (*PICTURES, *CLIPS)}
    assert set(PIPELINES) == proven


def code_lines(file: Path) -> int:
    """Lines with code on them: no blank ones, comments or docstrings."""
    kept: set[int] = set()
    before = tokenize.NEWLINE
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        docstring = token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        if token.type not in skipped and not docstring:
            kept.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
    return len(kept)


def test_families_stay_short() -> None:
    files = sorted(FAMILIES.glob("*.py"))
    assert len(files) > 20
    for file in files:
        assert len(file.read_text().splitlines()) <= 300, f"{file.name} is too long to be read in one go"
    assert sum(code_lines(file) for file in files) < 3500
