"""Lumina 2 reads the wanted prompt behind its system prompt, and the unwanted one alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffgen
from tests import tiny_b


def test_only_the_positive_prompt_follows_the_system_prompt(tmp_path: Path) -> None:
    family: Any = diffgen.load(tiny_b.lumina2(tmp_path)).family
    both, _ = family.encode_text(["a cat", "a cat"])
    assert both.text["mask"].sum(1).tolist()[0] > 100 > both.text["mask"].sum(1).tolist()[1]
