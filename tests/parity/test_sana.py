"""Sana and Sana-Sprint bring their own walks."""

from __future__ import annotations

from pathlib import Path

import diffgen
from tests import tiny_b


def test_defaults_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    sana, sprint = (diffgen.load(tiny_b.sana(tmp_path / kind, kind=kind)).family for kind in ("dpm", "sprint"))
    assert (sana.defaults.sampler, sana.defaults.sized(64, 64, 1, 20)) == ("dpmpp_2m", {"shift": 3.0})
    assert (sprint.defaults.sampler, sprint.defaults.schedule, sprint.defaults.steps) == ("lcm", "trig", 2)
    assert "guidance_embedding" in sprint.caps and "guidance_embedding" not in sana.caps
