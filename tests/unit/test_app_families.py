"""`diffgen models --families`: the table is asked of the families, so it says what they do."""

from __future__ import annotations

import json

import pytest

from diffgen.app import families
from diffgen.app.cli import run
from diffgen.checkpoints import blueprint


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blueprint, "carried", lambda: ("flux-dev", "sd15", "wan22-5b"))
    monkeypatch.setattr(families, "_FOLDERS", {"svd": families._FOLDERS["svd"]})


def test_the_table_is_the_families_own(few: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--families", "--json"]) == 0
    rows = {row["kind"]: row for row in json.loads(capsys.readouterr().out)}
    flux, sd, wan, svd = (rows[name] for name in ("flux-dev", "sd15", "wan22-5b", "svd"))
    assert flux["embedded_guidance"] and flux["guidance"] == 3.5 and flux["multiple"] == 16
    assert flux["shift"] == pytest.approx(3.158, abs=1e-3) and flux["frame_rule"] == ""
    assert sd["size"] == [512, 512] and sd["negative_prompt"] and not sd["embedded_guidance"] and sd["shift"] is None
    assert {"text_to_video", "image_to_video"} <= set(wan["tasks"]) and wan["frame_rule"].startswith("4k+1")
    assert wan["size"] == [1280, 704] and wan["multiple"] == 32 and wan["frames"] == 121 and wan["shift"] == 5
    assert svd["tasks"] == ["image_to_video"] and not svd["negative_prompt"] and svd["frames"] == 25
    assert run(["models", "--families"]) == 0
    out = capsys.readouterr().out
    assert "3.5, built in" in out and "121 (4k+1" in out and "unipc, sgm_uniform" in out


@pytest.mark.slow
def test_every_carried_model_and_every_family_has_a_row() -> None:
    from diffgen.families import PIPELINES

    rows = {row.kind: row for row in families.rows()}
    assert set(blueprint.carried()) <= set(rows)
    plans = [blueprint.blueprint(name, prediction="epsilon" if name == "sd2" else None) for name in blueprint.carried()]
    drawn = {PIPELINES[plan.pipeline] for plan in plans} | {PIPELINES[name] for name, _ in families._FOLDERS.values()}
    assert drawn == set(PIPELINES.values())
