"""`diffgen evaluate clip`: measures on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffgen.app.cli import run


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    still = np.random.default_rng(0).random((24, 32, 3)).astype(np.float32)
    file = tmp_path / "clip.npz"
    np.savez(file, pixels=np.stack([np.roll(still, k, axis=1) for k in range(5)])[None])
    return file


def test_scores_are_printed_and_are_json(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "clip", str(clip), "--joins", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == 5 and found["file"] == str(clip)
    assert {"flicker", "warping_error", "motion", "loop_closure", "drift", "join"} <= set(found)
    assert run(["evaluate", "clip", str(clip)]) == 0
    assert "warping error" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--joins", "two"], "whole numbers above 0"), (["--windows", "99"], "1 to 4; got 99")]
)
def test_bad_places_are_one_sentence(
    clip: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert run(["evaluate", "clip", str(clip), *arguments]) == 2
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told
