"""The formats of weight files, the tables between two namings, and what a file may bring besides weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import diffgen
from diffgen.checkpoints.gguf_header import TYPES
from diffgen.checkpoints.headers import read_header
from diffgen.checkpoints.keys import Layout, Piece, Rule, inward, outward
from diffgen.checkpoints.layouts import LAYOUTS
from diffgen.checkpoints.tensors import Weights, open_source
from diffgen.checkpoints.tokenizers import clip_tokenizer, qwen_tokenizer
from diffgen.errors import CheckpointError
from tests import originals, originals_dit, tiny_a, tiny_clips

CPU = torch.device("cpu")


def all_of(file: Path, dtype: torch.dtype | None = None, **options: Any) -> dict[str, torch.Tensor]:
    weights = Weights.plain([open_source(file, **options)])
    return {name: weights.get(name, dtype, CPU) for name in weights}


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_read_as_torch_would_convert_them(tmp_path: Path, dtype: torch.dtype | None) -> None:
    state = {"a": torch.randn(3, 5), "b": torch.randn(4).half(), "c": torch.arange(3), "d": torch.tensor(2.0),
             "e": torch.zeros(0, 3), "f": torch.randn(2, 2).bfloat16(), "g": torch.tensor([True, False])}  # fmt: skip
    found = all_of(originals.save(tmp_path / "a.safetensors", state), dtype)
    for name, value in state.items():
        want = value.to(dtype) if dtype and value.is_floating_point() else value
        assert found[name].dtype == want.dtype and found[name].equal(want), name


def test_a_file_whose_header_is_not_aligned_reads_the_same(tmp_path: Path) -> None:
    file = originals.save(tmp_path / "a.safetensors", {"a": torch.randn(7), "b": torch.randn(3, 3)})
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    file.write_bytes((length + 3).to_bytes(8, "little") + raw[8 : 8 + length] + b"   " + raw[8 + length :])
    assert read_header(file).entries["a"].start % 4
    assert all_of(file)["a"].equal(originals.load_file(file)["a"])


def test_mapped_weights_may_be_changed_and_the_file_stays(tmp_path: Path) -> None:
    file = originals.save(tmp_path / "a.safetensors", {"a": torch.ones(1000)})
    before = file.read_bytes()
    all_of(file)["a"].mul_(3)
    assert file.read_bytes() == before


@pytest.mark.parametrize("mark", ["scale_weight", "weight_scale"])
def test_eight_bit_weights_are_multiplied_by_their_scale(tmp_path: Path, mark: str) -> None:
    eight = torch.randn(4, 6).to(torch.float8_e4m3fn)
    state = {"x.weight": eight, f"x.{mark}": torch.tensor(0.25), "y.weight": eight, "scaled_fp8": torch.zeros(0)}
    found = all_of(originals.save(tmp_path / "a.safetensors", state), torch.float32)
    assert found["x.weight"].equal(eight.float() * 0.25) and found["y.weight"].equal(eight.float())
    assert all_of(tmp_path / "a.safetensors")["y.weight"].dtype == torch.bfloat16


class Spell:
    def __reduce__(self) -> Any:
        return (print, ("a pickle ran code",))


def test_pickles_are_refused_or_read_as_weights_only(tmp_path: Path, capsys: Any) -> None:
    folder = tiny_a.sd_variant(tmp_path / "sd", "StableDiffusionInpaintPipeline")
    state = originals.load_file(originals.stable_diffusion(folder, tmp_path / "m.safetensors"))
    file, bad = tmp_path / "m.ckpt", tmp_path / "bad.ckpt"
    torch.save({"state_dict": state, "global_step": 3}, file)
    torch.save({"state_dict": {**state, "x": Spell()}}, bad)
    with pytest.raises(CheckpointError, match="is a pickle.*allow_pickle=True"):
        diffgen.load(file, config=folder)
    model = diffgen.load(file, config=folder, allow_pickle=True)
    whole = diffgen.load(folder).family.components["vae"].state_dict()
    for name, value in model.family.components["vae"].state_dict().items():
        assert value.equal(whole[name])
    with pytest.raises(CheckpointError, match="cannot be read as weights only"):
        diffgen.load(bad, config=folder, allow_pickle=True)
    assert "ran code" not in capsys.readouterr().out


def write_gguf(file: Path, state: Mapping[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """Writes matrices quantised and the rest whole, as converters do; gives what they stand for."""
    import gguf

    writer = gguf.GGUFWriter(file, "flux")
    meant = {}
    number = gguf.GGMLQuantizationType[kind]
    for name, value in state.items():
        data = value.float().numpy()
        if value.ndim == 2 and value.shape[1] % TYPES[int(number)][1] == 0:
            packed = gguf.quants.quantize(data, number)
            writer.add_tensor(name, packed, raw_dtype=number)
            meant[name] = torch.from_numpy(gguf.quants.dequantize(packed, number))
        else:
            writer.add_tensor(name, data)
            meant[name] = value.float()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16", "F16"])
def test_gguf_reads_what_ggml_means(tmp_path: Path, kind: str) -> None:
    state = {"a.weight": torch.randn(6, 64), "a.bias": torch.randn(6), "b": torch.randn(3, 5)}
    meant = write_gguf(tmp_path / "a.gguf", state, kind)
    found = all_of(tmp_path / "a.gguf", torch.float32)
    assert found.keys() == meant.keys() and all(found[name].equal(meant[name]) for name in meant)
    header = read_header(tmp_path / "a.gguf")
    assert header.entries["a.weight"].dtype == kind and header.entries["a.weight"].shape == (6, 64)


def test_a_gguf_denoiser_draws_with_the_weights_it_stands_for(tmp_path: Path) -> None:
    from diffgen.pipelines import text_to_image

    folder = tiny_a.flux(tmp_path / "flux")
    files = originals_dit.apart(folder, tmp_path, "flux")
    meant = write_gguf(tmp_path / "flux.gguf", originals.load_file(files["denoiser"]), "Q8_0")
    given = dict(vae=folder, text_encoder=[files["text_encoder"], files["text_encoder_2"]], config=folder)
    packed = diffgen.load(tmp_path / "flux.gguf", **given)
    plain = diffgen.load(originals.save(tmp_path / "meant.safetensors", meant), **given)
    one, two = (text_to_image(m, "a cat", seed=1, steps=2, size=(64, 64))[0].pixels for m in (packed, plain))
    assert (one == two).all()


def test_a_tokenizer_inside_the_text_encoders_file_is_used(tmp_path: Path) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red apple on the tree", "a blue cat of the house"] * 20), vocab_size=60,
        model_prefix=str(tmp_path / "spiece"), pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    raw = torch.frombuffer(bytearray((tmp_path / "spiece.model").read_bytes()), dtype=torch.uint8)
    from diffgen.checkpoints.tokenizers import sentencepiece_tokenizer

    spec = {"kind": "T5TokenizerFast", "of": "UMT5", "length": 512}
    source = open_source(originals.save(tmp_path / "t5.safetensors", {"spiece_model": raw, "shared.weight": raw}))
    inside = sentencepiece_tokenizer(spec, [], [source])
    beside = sentencepiece_tokenizer(spec, [tmp_path / "spiece.model"], [])
    ids = inside("a red cat").input_ids
    assert ids == beside("a red cat").input_ids and ids[-1] == 1 and inside.model_max_length == 512
    with pytest.raises(CheckpointError, match=r"no tokenizer of UMT5; give .*tokenizer=\.\.\."):
        sentencepiece_tokenizer(spec, [], [])


def test_the_carried_tokenizers_give_the_published_numbers() -> None:
    ids = clip_tokenizer()("a photo of an astronaut riding a horse on mars").input_ids
    assert ids == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
    assert (clip_tokenizer().pad_token_id, clip_tokenizer("!").pad_token_id) == (49407, 0)
    qwen = qwen_tokenizer()
    text = qwen.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True)
    assert qwen(text).input_ids == [151644, 872, 198, 9707, 151645, 198, 151644, 77091, 198]
    assert qwen.convert_tokens_to_ids(["<|endoftext|>", "<|image_pad|>", "<think>"]) == [151643, 151655, 151667]


def test_rules_take_apart_join_and_turn_and_come_back() -> None:
    layout = Layout((Rule("a.*.qkv", ("b.*.q", "b.*.k", "b.*.v"), "part", (1, 1, 2)), Rule("n.1", "m", "swap"),
                     Rule("a.*.x.2", "b.*.y"), Rule("p", "t.weight", "transpose"), Rule("c", "d", "flatten")),
                    dropped=("junk",))  # fmt: skip
    shapes = {"a.3.qkv.weight": (8, 2), "a.3.x.2.bias": (4,), "n.1.weight": (4, 2), "p": (2, 3), "c": (5, 6, 1, 1)}
    pieces, unknown = inward([*shapes, "junk.a", "other"], layout)
    assert unknown == ["other"] and pieces["b.3.v.weight"] == Piece(("a.3.qkv.weight",), "part", 2, 4, 4)
    assert pieces["b.3.v.weight"].shape(shapes) == (4, 2) and pieces["b.3.y.bias"].sources == ("a.3.x.2.bias",)
    inner = {name: piece.shape(shapes) for name, piece in pieces.items()}
    assert inner["d"] == (5, 6) and inner["t.weight"] == (3, 2)
    back, unknown = outward(inner, layout)
    assert not unknown and {name: piece.shape(inner) for name, piece in back.items()} == shapes


# The network, its configuration and the function of diffusers that reads its original layout.
READERS = {
    "unet": ("convert_ldm_unet_checkpoint", "model.diffusion_model."), "kl": ("convert_ldm_vae_checkpoint", ""),
    "sd3": ("convert_sd3_transformer_checkpoint_to_diffusers", ""), "wan": ("convert_wan_transformer_to_diffusers", ""),
    "wan-vae": ("convert_wan_vae_to_diffusers", ""), "ltx": ("convert_ltx_transformer_checkpoint_to_diffusers", ""),
    "z-image": ("convert_z_image_transformer_checkpoint_to_diffusers", ""),
}  # fmt: skip


@pytest.mark.parametrize("layout", READERS)
def test_layouts_agree_with_diffusers_own_readers(layout: str, tmp_path: Path) -> None:
    import diffusers
    from diffusers.loaders import single_file_utils

    from tests import tiny_b

    makers: dict[str, Any] = {
        "unet": lambda: (tiny_a.sdxl(tmp_path), "unet"), "kl": lambda: (tiny_a.sdxl(tmp_path), "vae"),
        "sd3": lambda: (tiny_a.sd3(tmp_path), "transformer"), "ltx": lambda: (tiny_clips.ltx(tmp_path), "transformer"),
        "wan": lambda: (tiny_clips.wan(tmp_path, kind="2.1-i2v"), "transformer"),
        "z-image": lambda: (tiny_b.z_image(tmp_path), "transformer"),
    }  # fmt: skip
    if layout == "wan-vae":
        # Its reader knows the published blocks and widths only.
        network = diffusers.AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
                                             latents_mean=[0.0] * 4, latents_std=[1.0] * 4)  # fmt: skip
        config, state = dict(network.config), network.state_dict()
    else:
        folder, component = makers[layout]()
        config = json.loads((folder / component / "config.json").read_text())
        state = originals.weights(folder, component)
    pieces, unknown = outward(state, LAYOUTS[layout](config))
    assert not unknown
    name, prefix = READERS[layout]
    theirs = {
        prefix + key: piece.take(lambda old, rows: state[old], lambda old: state[old].shape[0]).clone()
        for key, piece in pieces.items()
    }
    read = getattr(single_file_utils, name)(theirs, config=config)
    assert read.keys() == state.keys() and all(read[key].equal(state[key]) for key in state)


@pytest.mark.parametrize("name", ["sd15.unet", "vae-4.kl", "clip-g.open-clip", "wan21-t2v-1.3b.wan", "flux-schnell.flux"])
def test_the_carried_lists_are_those_of_the_configurations(name: str) -> None:
    from diffgen.checkpoints.manifest import expected
    from diffgen.checkpoints.table import rows
    from diffgen.checkpoints.write_keys import shapes_of

    stem, _, layout = name.rpartition(".")
    row = next(row for row in rows() if (row.name, row.layout) == (stem, layout))
    assert shapes_of(row) == expected(row), "run python -m diffgen.checkpoints.write_keys"


def test_ltx_videos_autoencoder_fits_its_configuration() -> None:
    from diffusers import AutoencoderKLLTXVideo

    from diffgen.checkpoints.blueprint import part_slot
    from diffgen.checkpoints.layouts import renamed
    from diffgen.checkpoints.networks import empty_network

    slot = part_slot("ltx-vae")
    assert slot is not None
    own = empty_network(AutoencoderKLLTXVideo, slot.config).state_dict()
    theirs = {key: tuple(value.shape) for key, value in originals_dit.ltx_vae(own).items()}
    assert renamed.inward(theirs, "ltx-vae").keys() == own.keys()
