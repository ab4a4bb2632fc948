"""Z-Image: what tells Turbo from its teacher, and a chat template that it cannot do without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import diffgen
from diffgen.errors import CheckpointError
from tests import tiny_b


def test_the_shift_tells_turbo_from_its_teacher(tmp_path: Path) -> None:
    kinds = {"turbo": {}, "teacher": {"shift": 6.0}}
    turbo, teacher = (
        diffgen.load(tiny_b.z_image(tmp_path / kind, **options)).family.defaults for kind, options in kinds.items()
    )
    assert (turbo.steps, turbo.guidance) == (8, 0.0)
    assert (teacher.steps, teacher.guidance) == (50, 5.0)


def test_a_tokenizer_without_a_chat_template_is_named(tmp_path: Path) -> None:
    family: Any = diffgen.load(tiny_b.z_image(tmp_path)).family
    family.tokenizer.chat_template = None
    with pytest.raises(CheckpointError, match="no chat template"):
        replace(family).encode_text(["a cat"])
