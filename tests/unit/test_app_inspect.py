"""`diffgen inspect`: what a checkpoint holds, for people, as JSON and as an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffgen.app.cli import run


def test_a_folder_is_told_part_by_part(sd_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(sd_folder), "--strict"]) == 0
    told = capsys.readouterr().out
    assert "StableDiffusionPipeline" in told and "0 missing" in told
    assert run(["inspect", str(sd_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gaps"] == []


def test_what_is_no_checkpoint_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "model.safetensors"
    page.write_text("<html><body>log in</body></html>")
    assert run(["inspect", str(page)]) == 2
    assert "is an HTML page" in capsys.readouterr().err
