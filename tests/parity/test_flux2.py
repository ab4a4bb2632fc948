"""Flux.2 and Klein: what each variant declares, its shift, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.errors import UsageError
from diffgen.families.flux2 import empirical_mu
from tests import tiny_b

Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_b.flux2(tmp_path_factory.mktemp(kind), kind=kind)
        return made[kind]

    return folder


def test_variants_declare_what_they_are(folders: Folders) -> None:
    dev, klein, base = (diffgen.load(folders(kind)).family for kind in ("dev", "klein", "base"))
    assert "guidance_embedding" in dev.caps and "edit" in dev.caps
    assert (klein.defaults.steps, klein.defaults.guidance) == (4, 1.0) and "negative_prompt" not in klein.caps
    assert (base.defaults.steps, base.defaults.guidance) == (50, 4.0) and "negative_prompt" in base.caps


@pytest.mark.parametrize(("tokens", "steps"), [(256, 4), (4096, 50), (4300, 28), (4301, 28), (16384, 4)])
def test_the_shift_is_the_authors_fit(tokens: int, steps: int) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    assert empirical_mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), abs=1e-9)


def test_refuses_what_it_cannot_use(folders: Folders) -> None:
    family: Any = diffgen.load(folders("klein")).family
    cond, notes = family.encode_text(["a red apple " * 200])
    assert cond.text["hidden"].shape[1] == 512 and "cut from the prompt" in notes[0]
    with pytest.raises(UsageError, match="flux2-klein takes reference, reference_2"):
        family.attach(cond, {"image": torch.zeros(1, 3, 1, 64, 64)})
    with pytest.raises(UsageError, match="reference is 60x64; both sides must be multiples of 16"):
        family.attach(cond, {"reference": torch.zeros(1, 3, 1, 64, 60)})


def test_a_tokenizer_inside_a_processor_is_found(folders: Folders, tmp_path: Path) -> None:
    copy = tmp_path / "bundled"
    shutil.copytree(folders("dev"), copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "tokenizer": ["transformers", "PixtralProcessor"]}))
    want, got = (diffgen.load(path).family.encode_text(["a cat"])[0].text["hidden"] for path in (folders("dev"), copy))
    assert torch.equal(got, want)
