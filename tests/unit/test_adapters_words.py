"""Textual inversion: which words are found, what the encoder is given, and that nothing stays behind."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.adapters import Adapter, apply
from diffgen.adapters.words import Word
from diffgen.errors import UsageError
from diffgen.pipelines import text_to_image
from diffgen.prompts import encode_sequence
from diffgen.prompts.tokens import bare
from tests import tiny_a
from tests.tiny_lora import write

CALL = dict(seed=3, steps=2, size=(64, 64))


def vectors(count: int, width: int = 32) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


def taught(family: Any, *adapters: Adapter) -> ExitStack:
    stack = ExitStack()
    for patch in apply(adapters, family).text:
        stack.enter_context(patch(family.components))
    return stack


@pytest.mark.parametrize(("text", "ids"), [
    ("a my-style cat", ["a", -1, -2, "cat"]), ("My-Style", [-1, -2]), ("my-styles", None),
    ("my-style,a", [-1, -2, ",", "a"]), ("my-style my-style", [-1, -2, -1, -2]), ("xmy-style", None), ("", []),
])  # fmt: skip
def test_the_word_stands_by_itself(text: str, ids: list[Any] | None, sd_folder: Path, tmp_path: Path) -> None:
    family: Any = diffgen.load(sd_folder).family
    [plain] = bare(family.tokenizer, [text])
    file = write(tmp_path / "my-style.safetensors", {"emb_params": vectors(2)})
    with taught(family, Adapter(file)):
        [found] = bare(family.tokenizer, [text])
        framed = family.tokenizer(text)["input_ids"]
    expected = plain if ids is None else [
        number for one in ids for number in ([one] if isinstance(one, int) else bare(family.tokenizer, [one])[0])
    ]  # fmt: skip
    assert found == expected
    assert framed == family.tokenizer(text)["input_ids"]


def test_the_longer_word_wins(sd_folder: Path, tmp_path: Path) -> None:
    family: Any = diffgen.load(sd_folder).family
    files = [write(tmp_path / f"{name}.safetensors", {"emb_params": vectors(1)}) for name in ("cat", "cat-2")]
    with taught(family, *map(Adapter, files)):
        assert bare(family.tokenizer, ["cat-2 cat"]) == [[-2, -1]]


def test_nothing_stays_behind(sd_folder: Path, tmp_path: Path) -> None:
    family: Any = diffgen.load(sd_folder).family
    table = family.text_encoder.get_input_embeddings()
    before, kind, place = table.weight.detach().clone(), type(family.tokenizer), table.weight.data_ptr()
    file = write(tmp_path / "style.safetensors", {"emb_params": vectors(2)})
    with pytest.raises(RuntimeError, match="broken"), taught(family, Adapter(file)):
        assert table.weight.shape[0] == before.shape[0] + 2
        raise RuntimeError("broken")
    assert torch.equal(table.weight, before) and table.weight.data_ptr() == place
    assert type(family.tokenizer) is kind and not table._forward_pre_hooks
    assert bare(family.tokenizer, ["style"])[0][0] >= 0


def test_the_end_is_found_where_clip_takes_the_highest_number(sd_folder: Path, tmp_path: Path) -> None:
    family: Any = diffgen.load(sd_folder).family
    file = write(tmp_path / "style.safetensors", {"emb_params": vectors(1)})
    family.text_encoder.config.eos_token_id = 2  # as in the published configuration, which means "the highest"
    end = family.tokenizer.eos_token_id
    with taught(family, Adapter(file)):
        ids = torch.tensor([[end - 1, -1, end] + [end] * 74])
        out = family.text_encoder(ids)
    assert torch.equal(out.pooler_output, out.last_hidden_state[:, 2])


def test_reading_tokens_back_gives_the_word(sd_folder: Path, tmp_path: Path) -> None:
    family: Any = diffgen.load(sd_folder).family
    file = write(tmp_path / "style.safetensors", {"emb_params": vectors(2)})
    with taught(family, Adapter(file)):
        _, _, [info] = encode_sequence(
            ["cat cat style"], family.tokenizer, lambda ids, mask: torch.zeros(1, ids.shape[1], 2), length=4
        )
        assert info.dropped == 2 and info.dropped_words == ("style",)


@pytest.mark.parametrize("content", [
    {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors(2)}, "name": "x", "step": 5},
    {"<style>": vectors(1)[0]},
])  # fmt: skip
def test_pickled_embeddings(content: Any, sd_folder: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "style.pt")
    [report] = apply([Adapter(tmp_path / "style.pt", allow_pickle=True)], diffgen.load(sd_folder).family).reports
    assert report.word == ("<style>" if "<style>" in content else "style")
    assert report.used == 1 and "1 of 1 keys took effect" in report.line


def test_a_word_may_be_given(sd_folder: Path, tmp_path: Path) -> None:
    family: Any = diffgen.load(sd_folder).family
    file = write(tmp_path / "a.safetensors", {"emb_params": vectors(1)})
    with taught(family, Adapter(file, word="sks")):
        assert bare(family.tokenizer, ["a sks"])[0][-1] == -1


@pytest.mark.parametrize(("tensors", "options", "says"), [
    ({"emb_params": vectors(2, 48)}, {}, "has vectors of 48 numbers for the text_encoder, which reads 32"),
    ({"clip_g": vectors(2, 32)}, {}, "made for another kind of model"),
    ({"emb_params": vectors(2)}, {"strength": 0.5}, r"which has no strength; write \(word:0.8\)"),
    ({"emb_params": vectors(2)}, {"blocks": {"MID": 0.5}}, "which has no strength"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(
    tensors: dict[str, torch.Tensor], options: dict[str, Any], says: str, sd_folder: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "style.safetensors", tensors)
    with pytest.raises(UsageError, match=says):
        apply([Adapter(file, **options)], diffgen.load(sd_folder).family)


def test_an_embedding_for_one_of_two_encoders_is_refused(tmp_path: Path) -> None:
    family = diffgen.load(tiny_a.sdxl(tmp_path / "xl")).family
    file = write(tmp_path / "old.safetensors", {"emb_params": vectors(2)})
    with pytest.raises(UsageError, match="32 numbers for the text_encoder_2, which reads 24"):
        apply([Adapter(file)], family)


def test_two_files_cannot_have_one_word(sd_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    files = [write(tmp_path / name / "style.safetensors", {"emb_params": vectors(1)}) for name in ("", "b")]
    with pytest.raises(UsageError, match="two embeddings have the word 'style'"):
        apply([Adapter(file) for file in files], diffgen.load(sd_folder).family)


def test_an_unused_word_is_said(sd_folder: Path, tmp_path: Path) -> None:
    model = diffgen.load(sd_folder)
    file = write(tmp_path / "style.safetensors", {"emb_params": vectors(1)})
    [used] = text_to_image(model, "a red apple", negative="STYLE", guidance=3.0, adapters=[file], **CALL)
    [unused] = text_to_image(model, "a red apple", guidance=3.0, adapters=[file], **CALL)
    assert not used.recipe.notes
    assert unused.recipe.notes == ("the embedding 'style' was not used: no prompt has the word",)


def test_words_are_found_whole() -> None:
    word = Word(text="<cat>", vectors={}, keys=frozenset())
    assert word.within("a<CAT>b") and not word.within("cat")
