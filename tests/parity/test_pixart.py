"""PixArt-Alpha's transformer is told sizes beside the text; it is refused rather than drawn wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import diffgen
from diffgen.errors import CheckpointError
from diffgen.families.common import Parts
from diffgen.families.pixart import build
from tests import tiny_b


def test_the_older_kind_is_refused(tmp_path: Path) -> None:
    family: Any = diffgen.load(tiny_b.pixart(tmp_path)).family
    family.transformer.register_to_config(use_additional_conditions=True)
    with pytest.raises(CheckpointError, match="PixArt-Alpha"):
        build(Parts(origin=tmp_path, index={}, components={"transformer": family.transformer}))
