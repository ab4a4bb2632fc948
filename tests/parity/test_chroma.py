"""Chroma hides the padding from its network, and reads a bare sentencepiece model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import diffgen
from diffgen.errors import CheckpointError
from tests import tiny_a

PROMPT, NEGATIVE = "a photo of a red apple", "the blue cat on a big house"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_a.chroma(tmp_path_factory.mktemp("chroma"))


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
