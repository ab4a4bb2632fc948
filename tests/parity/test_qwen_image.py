"""Qwen-Image and its edit variants: how many pictures each looks at, and prompts beside longer ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.errors import UsageError
from tests import tiny_b

DRAW, EDIT, PLUS = "QwenImagePipeline", "QwenImageEditPipeline", "QwenImageEditPlusPipeline"
Folders = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(kind: str, **network: Any) -> Path:
        key = f"{kind}{network}"
        if key not in made:
            made[key] = tiny_b.qwen_image(tmp_path_factory.mktemp(kind), kind=kind, **network)
        return made[key]

    return folder


def test_a_picture_is_told_the_same_beside_a_longer_prompt(folders: Folders) -> None:
    family: Any = diffgen.load(folders(DRAW)).family
    alone, _ = family.encode_text(["a cat"])
    beside, _ = family.encode_text(["a cat", "a photo of a big red house"])
    length = alone.text["hidden"].shape[1]
    assert torch.equal(beside.text["hidden"][0, :length], alone.text["hidden"][0])
    assert beside.text["mask"].sum(1).tolist()[0] == length < beside.text["mask"].shape[1]


def test_refuses_what_it_cannot_use(folders: Folders) -> None:
    draw, edit, plus = (diffgen.load(folders(*kind)).family for kind in ((DRAW,), (EDIT,), (PLUS,)))
    shown = torch.zeros(1, 3, 1, 64, 64)
    cond, notes = draw.encode_text(["a red apple " * 200])
    assert "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="qwen-image takes no picture; given: reference"):
        draw.attach(cond, {"reference": shown})
    with pytest.raises(UsageError, match="looks at no picture; given: 1"):
        draw.encode_text(["a cat"], pictures=[shown])
    with pytest.raises(UsageError, match="looks at one picture; given: 0"):
        edit.encode_text(["a cat"])
    with pytest.raises(UsageError, match="looks at one picture; given: 2"):
        edit.encode_text(["a cat"], pictures=[shown, shown])
    with pytest.raises(UsageError, match="takes reference; given: reference, reference_2"):
        edit.attach(cond, {"reference": shown, "reference_2": shown})
    with pytest.raises(UsageError, match="looks at one or more pictures; given: 0"):
        plus.encode_text(["a cat"])
    with pytest.raises(UsageError, match="reference_2 is 56x64; both sides must be multiples of 16"):
        plus.attach(cond, {"reference": shown, "reference_2": shown[..., :56]})
