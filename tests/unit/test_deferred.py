"""Deferred packages: their parts import alone, and the package is whole as soon as it is looked at."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffgen.checkpoints.deferred import complete, defer, undisturbed


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package whose `__init__` imports all it holds, one part of which cannot be imported at first."""
    folder = tmp_path / "crowded"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .one import ONE\nfrom .other import OTHER\nBOTH = ONE + OTHER\n")
    (folder / "one.py").write_text("ONE = 1\n")
    (folder / "other.py").write_text("import os\nOTHER = int(os.environ['OTHER'])\n")
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "__init__.py").write_text("")
    folder.rename(tmp_path / "outer" / "crowded")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OTHER", "2")
    for name in [name for name in sys.modules if name.split(".")[0] == "outer"]:
        del sys.modules[name]
    return "outer.crowded"


def test_a_part_is_imported_alone_and_the_package_when_it_is_asked(package: str) -> None:
    defer([package])
    from outer.crowded.one import ONE  # type: ignore[import-not-found]

    assert ONE == 1 and "outer.crowded.other" not in sys.modules
    assert not hasattr(sys.modules[package], "__warningregistry__") and "outer.crowded.other" not in sys.modules
    from outer.crowded import BOTH

    assert BOTH == 3 and type(sys.modules[package]) is type(sys)
    with pytest.raises(AttributeError):
        sys.modules[package].nothing  # noqa: B018


def test_a_failed_completion_can_be_tried_again(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    defer([package])
    monkeypatch.setenv("OTHER", "two")
    with pytest.raises(ValueError, match="two"):
        complete(sys.modules[package])
    monkeypatch.setenv("OTHER", "2")
    assert sys.modules[package].BOTH == 3
    assert {"ONE", "OTHER", "BOTH"} <= set(dir(sys.modules[package]))


def test_what_is_imported_or_missing_is_left_alone() -> None:
    before = sys.modules["os"]
    defer(["os", "no_such_parent.part", "outer_nothing"])
    assert sys.modules["os"] is before and "no_such_parent.part" not in sys.modules


def test_the_collector_is_as_it_was() -> None:
    with undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with undisturbed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.slow
def test_every_class_of_every_family_is_imported_first() -> None:
    """Whichever model a process begins with: the order of imports is another for each."""
    script = f"""
import os, sys
import torch, diffusers, transformers
import diffusers.utils.torch_utils
from diffgen.checkpoints.deferred import PACKAGES, defer
defer()
failed = []
for name in {CLASSES!r}:
    pid = os.fork()
    if pid == 0:
        try:
            getattr(diffusers, name)
            from diffusers.models.transformers import FluxTransformer2DModel
            from scipy.stats import beta
            assert beta.ppf(0.5, 1, 1) == 0.5
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
sys.exit(", ".join(failed) or None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stdout + done.stderr


CLASSES = (
    "AutoencoderKL", "AutoencoderTiny", "AutoencoderDC", "AutoencoderKLWan", "AutoencoderKLLTXVideo",
    "AutoencoderKLQwenImage", "AutoencoderKLFlux2", "AutoencoderKLMochi", "AutoencoderKLHunyuanVideo",
    "AutoencoderKLCogVideoX", "AutoencoderKLTemporalDecoder", "UNet2DConditionModel", "UNetMotionModel",
    "MotionAdapter", "UNetSpatioTemporalConditionModel", "FluxTransformer2DModel", "Flux2Transformer2DModel",
    "ChromaTransformer2DModel", "SD3Transformer2DModel", "PixArtTransformer2DModel", "SanaTransformer2DModel",
    "QwenImageTransformer2DModel", "ZImageTransformer2DModel", "Lumina2Transformer2DModel",
    "AuraFlowTransformer2DModel", "WanTransformer3DModel", "LTXVideoTransformer3DModel", "CogVideoXTransformer3DModel",
    "HunyuanVideoTransformer3DModel", "MochiTransformer3DModel", "ControlNetModel", "StableDiffusionPipeline",
)  # fmt: skip
