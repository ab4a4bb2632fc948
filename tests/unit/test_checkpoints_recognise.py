"""What a file is, from its header alone; and files that are something else."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from diffgen.checkpoints import inspect
from diffgen.checkpoints.blueprint import blueprint, carried
from diffgen.checkpoints.headers import read_header
from diffgen.checkpoints.manifest import expected, fold, unfold
from diffgen.checkpoints.recognise import prediction_of, recognise
from diffgen.checkpoints.report import check
from diffgen.checkpoints.table import Row, rows
from diffgen.errors import CheckpointError
from tests import sparse

# Weights of the published networks, as their model cards, papers or files count them.
PUBLISHED = {
    ("sd15", "unet"): 859_520_964, ("sd2", "unet"): 865_910_724, ("sdxl", "unet"): 2_567_463_684,
    ("vae-4", "kl"): 83_653_863, ("vae-16", "kl"): 83_819_683, ("clip-l", "same"): 123_060_480,
    ("clip-g", "open-clip"): 694_659_840, ("t5-xxl", "same"): 4_762_310_656, ("flux-dev", "flux"): 11_901_408_320,
    ("flux-schnell", "flux"): 11_891_178_560, ("wan21-t2v-1.3b", "wan"): 1_418_996_800, ("ltx", "ltx"): 1_923_385_472,
    ("qwen3-4b", "same"): 4_022_468_096, ("qwen-image", "same"): 20_430_401_088,
    ("qwen2.5-vl-7b", "qwen-vl"): 8_292_166_656, ("hunyuan-video", "hunyuan-video"): 12_821_012_544,
    ("hunyuan-video-vae", "same"): 246_478_803, ("sana", "sana"): 1_604_462_752, ("sana-vae", "same"): 312_250_275,
    ("pixart-sigma", "pixart"): 610_856_096, ("gemma2-2b", "same"): 2_614_341_888,
}  # fmt: skip


@pytest.mark.parametrize(("name", "layout"), PUBLISHED)
def test_the_carried_lists_count_as_many_weights_as_were_published(name: str, layout: str) -> None:
    assert sum(math.prod(shape) for shape in sparse.network(name, layout).values()) == PUBLISHED[name, layout]


@pytest.mark.parametrize("row", [row for row in rows() if expected(row)], ids=lambda row: f"{row.name}.{row.layout}")
def test_every_published_network_is_recognised_as_itself(row: Row, tmp_path: Path) -> None:
    file = sparse.write(tmp_path / "model.safetensors", expected(row))
    found = recognise(read_header(file))
    assert [(part.row.name, part.row.layout) for part in found] == [(row.name, row.layout)]
    report = inspect(file)
    assert report.gaps == () and report.parts[0].matched == len(expected(row))


@pytest.mark.parametrize("name", carried())
def test_every_carried_model_can_be_planned(name: str) -> None:
    plan = blueprint(name, prediction="epsilon" if name.startswith("sd2") else None)
    assert {slot.role for slot in plan.slots} >= {"denoiser", "vae", "text"}
    assert all(slot.config for slot in plan.slots) and plan.scheduler["_class_name"]


def test_an_all_in_one_file_is_told_part_by_part(tmp_path: Path) -> None:
    report = inspect(sparse.sd15(tmp_path / "sd.safetensors"))
    assert [(part.role, part.name, part.place) for part in report.parts] == [
        ("denoiser", "sd15", "model.diffusion_model."), ("vae", "vae-4", "first_stage_model."),
        ("text", "clip-l", "cond_stage_model.transformer."),
    ]  # fmt: skip
    assert report.size > 2_132_000_000 and report.parts[0].dtypes == {"F16": 859_520_964}
    assert "686 matched, 0 missing, 0 unexpected, 0 of another shape" in "\n".join(report.lines())
    assert json.loads(report.json())["kind"] == "sd15"


def test_missing_misshapen_and_unknown_tensors_are_named(tmp_path: Path) -> None:
    shapes = sparse.network("wan21-t2v-1.3b", "wan")
    del shapes["blocks.7.ffn.0.weight"]
    shapes["blocks.3.self_attn.q.weight"] = (1536, 1535)
    shapes["blocks.3.self_attn.extra"] = (4,)
    report = inspect(sparse.write(tmp_path / "wan.safetensors", shapes))
    part = report.parts[0]
    assert part.missing == ("blocks.7.ffn.0.weight",) and part.unexpected == ("blocks.3.self_attn.extra",)
    assert part.misshapen == ("blocks.3.self_attn.q.weight is 1536x1535 instead of 1536x1536",)
    with pytest.raises(CheckpointError, match=r"1 missing, the first is blocks\.7\.ffn\.0\.weight"):
        check(report)


def test_a_network_with_fewer_layers_is_no_gap(tmp_path: Path) -> None:
    shapes = {
        key: shape for key, shape in sparse.network("flux-dev", "flux").items()
        if not key.startswith("double_blocks.") or int(key.split(".")[1]) < 8
    }  # fmt: skip
    report = inspect(sparse.write(tmp_path / "lite.safetensors", shapes))
    assert report.kind == "flux-dev" and report.gaps == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input_blocks.0.0.weight": (320, 9, 3, 3)}, "sd15-inpaint"),
        ({"input_blocks.0.0.weight": (320, 8, 3, 3)}, "sd15-edit"),
        ({"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)}, "sd2"),
        ({"input_blocks.0.0.weight": (320, 5, 3, 3)}, None),
    ],
)
def test_shapes_decide_between_files_with_the_same_names(tmp_path: Path, changes: dict, says: str | None) -> None:
    report = inspect(sparse.write(tmp_path / "a.safetensors", {**sparse.network("sd15", "unet"), **changes}))
    assert report.kind == says
    if says is None:
        assert report.near[0] == "Stable Diffusion 1.x, but input_blocks.0.0.weight is 320x5x3x3 instead of anyx4x3x3"


def test_the_wan_models_are_told_apart_by_shape(tmp_path: Path) -> None:
    for name in ("wan22-5b", "wan21-i2v-14b", "wan22-i2v-14b", "wan21-t2v-14b", "wan21-t2v-1.3b"):
        report = inspect(sparse.write(tmp_path / name, sparse.network(name, "wan", "model.diffusion_model.")))
        assert report.kind == name
    assert report.also == () and "wan22-t2v-14b" in inspect(tmp_path / "wan21-t2v-14b").also


def test_recognised_only_kinds_say_so(tmp_path: Path) -> None:
    keys = {"vace_blocks.0.after_proj.weight": (1536, 1536), "head.modulation": (1, 2, 1536)}
    report = inspect(sparse.write(tmp_path / "vace.safetensors", keys))
    assert report.kind == "wan-vace" and "cannot load" in report.title
    assert "not compared" in "\n".join(report.lines())


def test_v_prediction_is_read_from_a_marker_or_the_metadata(tmp_path: Path) -> None:
    shapes = sparse.network("sd2", "unet")
    plain = sparse.write(tmp_path / "a", shapes)
    assert prediction_of(read_header(plain)) is None
    assert inspect(sparse.write(tmp_path / "b", {**shapes, "v_pred": (0,)})).prediction == "v_prediction"
    told = {"modelspec.architecture": "stable-diffusion-v2-768-v"}
    assert inspect(sparse.write(tmp_path / "c", shapes, metadata=told)).prediction == "v_prediction"
    with pytest.raises(CheckpointError, match="give prediction='v_prediction'"):
        blueprint("sd2")


@pytest.mark.parametrize(
    ("keys", "kinds", "model"),
    [
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 8)}, "kohya", "Flux.1"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (4, 8)}, "peft", "Flux.1"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_down.weight": (4, 8)}, "kohya", "Wan or another video model"),
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": (4, 8)}, "LoHa", "SDXL"),
        ({"lora_te_text_model_x.dora_scale": (4, 8), "lora_te_x.lokr_w1": (2, 2)}, "DoRA, LoKr", "Stable Diffusion 1.x"),
    ],
)
def test_adapters_are_told_with_their_layout_and_model(tmp_path: Path, keys: dict, kinds: str, model: str) -> None:
    report = inspect(sparse.write(tmp_path / "lora.safetensors", keys))
    assert report.kind == "lora" and kinds in report.title and model in report.title


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_a_ten_gigabyte_file_is_read_by_its_header_alone(tmp_path: Path) -> None:
    file = sparse.write(tmp_path / "big.safetensors", sparse.network("sdxl", "unet", "model.diffusion_model."), "F32")
    assert file.stat().st_size > 10e9
    code = (
        "import sys; from diffgen.checkpoints import inspect;"
        "print('\\n'.join(inspect(sys.argv[1]).lines()));"
        "assert 'torch' not in sys.modules;"
        # Not ru_maxrss, which begins with what the process that started this one had in memory.
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    out = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True).stdout
    assert "1680 matched" in out and int(out.splitlines()[-1]) < 300 * 1024


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "is an HTML page"),
        (b"\n <html><body>login</body></html>", "is an HTML page"),
        (b'{"error": "Repository not found"}', "is a JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        (b"", "is empty"), (b"abc", "damaged"), (bytes(range(256)) * 9, "no weight file"),
        (b"PK\x03\x04" + b"\0" * 99, "is a pickle"), (b"\x80\x02}q\x00.", "is a pickle"),
        (struct.pack("<Q", 900) + b'{"a":', "truncated within its header"),
        (struct.pack("<Q", 16) + b"{not json       " + b"\0" * 9, "cannot be read"),
        (b"GGUF" + struct.pack("<IQQ", 3, 5, 5), "truncated within its GGUF header"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1; accepted: 2, 3"),
    ],
)  # fmt: skip
def test_what_is_no_weight_file_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        inspect(file)


def test_a_truncated_file_says_how_much_is_gone(tmp_path: Path) -> None:
    file = sparse.sd15(tmp_path / "sd.safetensors")
    with file.open("r+b") as stream:
        stream.truncate(2_000_000_000)
    with pytest.raises(CheckpointError, match=r"truncated, 2000000000 bytes of 2132\d+; \d+ of 1130 tensors are cut"):
        inspect(file)


def test_lists_fold_and_unfold_to_themselves() -> None:
    shapes = {f"a.{i}.b.{j}.w": (i and 3, 2) for i in (0, 1, 2, 5) for j in range(3)} | {"c": (), "a.1.x": (4,)}
    assert unfold(fold(shapes)) == shapes
