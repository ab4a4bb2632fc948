"""Chroma against diffusers' own pipeline: same weights, same seeds, same latents and pixels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

import diffgen
from diffgen.errors import CheckpointError, UnsupportedError, UsageError
from tests import tiny_a
from tests.tiny_b import difference, ours, reference

TOLERANCE = 1e-4
PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat on a big house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.chroma(tmp_path_factory.mktemp("chroma"))


@pytest.fixture
def masking(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers hands the mask to attention as numbers, which are added there: nothing is hidden (its #12116)."""
    before = diffusers.ChromaPipeline._prepare_attention_mask

    def repaired(self: Any, *args: Any, **options: Any) -> Any:
        mask = before(self, *args, **options)
        return None if mask is None else mask.bool()

    monkeypatch.setattr(diffusers.ChromaPipeline, "_prepare_attention_mask", repaired)


@pytest.mark.parametrize(("guidance", "seeds", "size"), [(5.0, [3, 4, 5], (48, 80)), (1.0, [7], (64, 64))])
def test_draws_the_reference_picture(
    guidance: float, seeds: list[int], size: tuple[int, int], folder: Path, masking: None
) -> None:
    want, pixels = reference(
        folder, seeds, PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, guidance_scale=guidance,
        width=size[0], height=size[1],
    )  # fmt: skip
    got, mine = ours(folder, seeds, PROMPT, negative=NEGATIVE, steps=5, guidance=guidance, size=size)
    assert difference(got, tiny_a.unpacked(want, *size)) < TOLERANCE
    assert difference(mine, pixels) < TOLERANCE


def test_a_prompt_is_the_same_whatever_stands_beside_it(folder: Path) -> None:
    from diffgen.contracts import Branch, Step

    family = diffgen.load(folder).family
    step = Step.between(family.path, 0.7, 0.5)
    x = torch.randn(1, 16, 1, 8, 8)
    with torch.inference_mode():
        alone, beside = family.encode_text([PROMPT])[0], family.encode_text([PROMPT, NEGATIVE * 5])[0].rows(slice(0, 1))
        assert alone.text["hidden"].shape[1] < beside.text["hidden"].shape[1]
        one, other = (family.predict(x, step, Branch(name="positive", cond=cond), {}) for cond in (alone, beside))
    assert torch.allclose(one, other, atol=1e-5)


def test_refuses_what_it_cannot_draw(folder: Path) -> None:
    family: Any = diffgen.load(folder).family
    _, notes = family.encode_text(["a red apple " * 200])
    assert "cut from the prompt" in notes[0]
    with pytest.raises(UnsupportedError, match="chroma has no setting 'clip_skip'"):
        ours(folder, [1], PROMPT, steps=1, settings={"clip_skip": 2})
    with pytest.raises(UsageError, match="chroma takes no picture; given: image"):
        family.attach(family.encode_text(["a"])[0], {"image": torch.zeros(1, 3, 1, 64, 64)})


@pytest.mark.parametrize("missing", [None, "sentencepiece", "google.protobuf"])
def test_a_bare_sentencepiece_model_is_read_or_the_missing_package_named(
    missing: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    folder = tiny_a.chroma(tmp_path / "chroma")
    (tmp_path / "text").write_text("a photo of a red apple on the big house\nthe blue cat\n" * 50)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    trainer.train(
        input=str(tmp_path / "text"), model_prefix=str(folder / "tokenizer" / "spiece"), vocab_size=40, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    if missing is None:
        cond, notes = diffgen.load(folder).family.encode_text(["a red apple"])
        assert cond.text["hidden"].shape[1] > 4 and not notes
        return
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(CheckpointError, match=f"pip install {missing.removeprefix('google.')}"):
        diffgen.load(folder)
