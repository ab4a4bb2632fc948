"""LoRAs on networks: what is merged, what is counted, and that everything is put back to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import diffgen
from diffgen.adapters import Adapter, Applied, apply
from diffgen.contracts import Components
from diffgen.errors import UsageError
from diffgen.families.common import in_float32
from diffgen.pipelines import text_to_image
from diffgen.pipelines.text_to_image import prepare, stream
from tests import tiny_a, tiny_clips
from tests.tiny_lora import ATTENTION, CONVOLUTIONS, TEXT, kohya, pairs, peft, write

CALL = dict(seed=3, steps=3, size=(64, 64))
PROMPT = "a photo of a red apple"


@dataclass
class Networks:
    """As much of a family as adapters look at."""

    components: Mapping[str, Any]
    name: str = "networks"


def bits(components: Components) -> dict[str, Tensor]:
    """A copy of every weight."""
    return {f"{owner}.{name}": weight.clone() for owner, network in components.items()
            for name, weight in network.state_dict().items()}  # fmt: skip


@contextmanager
def entered(applied: Applied, components: Components) -> Iterator[None]:
    with ExitStack() as stack:
        for patch in applied.patches:
            stack.enter_context(patch(components))
        yield


def merged(network: Any, file: Path, name: str, **options: Any) -> tuple[Tensor, Tensor]:
    """(before, during) of one weight, and asserts that all weights are what they were afterwards."""
    family: Any = Networks({"denoiser": network})
    before = bits(family.components)
    with entered(apply([Adapter(file, **options)], family), family.components):
        during = network.get_parameter(name).detach().clone()
    after = bits(family.components)
    assert all(torch.equal(before[key], after[key]) for key in before)
    return before[f"denoiser.{name}"], during


class Small(nn.Module):
    """A network of one layer of each kind."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.conv = nn.Linear(12, 8, bias=bias), nn.Conv2d(6, 8, 3)
        self.point, self.norm = nn.Conv2d(12, 8, 1), nn.LayerNorm(8)
        self.table = nn.Parameter(torch.randn(1, 6, 8))


PEFT: dict[str, tuple[str, dict[str, Any]]] = {
    "loha": ("LoHaConfig", {}), "loha, cores": ("LoHaConfig", {"use_effective_conv2d": True}),
    "lokr": ("LoKrConfig", {}), "lokr, both cut": ("LoKrConfig", {"decompose_both": True}),
    "lokr, cores": ("LoKrConfig", {"use_effective_conv2d": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", PEFT)
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_lycoris_kinds_equal_pefts_own(kind: str, layer: str, tmp_path: Path) -> None:
    import peft as library

    config, options = PEFT[kind]
    tuned = library.get_peft_model(
        Small(), getattr(library, config)(r=1, alpha=3, target_modules=[layer], init_weights=False, **options)
    )
    owner = next(module for name, module in tuned.named_modules() if name.endswith(f"model.{layer}"))
    want = owner.get_delta_weight("default").detach()
    tensors = {f"lora_unet_{layer}.alpha": torch.tensor(3.0)}
    for name, parameter in owner.named_parameters():
        if "base_layer" not in name:
            tensors[f"lora_unet_{layer}.{name.removesuffix('.default')}"] = parameter.detach()
    file = write(tmp_path / "file.safetensors", tensors)
    before, during = merged(Small(), file, f"{layer}.weight", strength=0.5)
    assert float((during - before).abs().max()) > 1e-4
    torch.testing.assert_close(during, before + 0.5 * want.reshape(before.shape), atol=1e-6, rtol=1e-5)


def test_dora_by_row_and_by_column(tmp_path: Path) -> None:
    network = Small()
    up, down, weight = torch.randn(8, 2), torch.randn(2, 12), network.linear.weight.detach().clone()
    for shape, axis in (((8, 1), 1), ((1, 12), 0)):
        scale = torch.rand(shape) + 0.5
        tensors = {**kohya({"linear": (down, up)}, "lora_unet", alpha=1.0), "lora_unet_linear.dora_scale": scale}
        _, during = merged(network, write(tmp_path / "dora.safetensors", tensors), "linear.weight")
        moved = weight + 0.5 * up @ down
        want = scale * moved / moved.norm(dim=axis, keepdim=True)
        torch.testing.assert_close(during, want, atol=1e-6, rtol=1e-5)
        _, half = merged(network, tmp_path / "dora.safetensors", "linear.weight", strength=0.5)
        torch.testing.assert_close(half, (weight + want) / 2, atol=1e-6, rtol=1e-5)


def test_whole_differences_of_weights_biases_norms_and_tables(tmp_path: Path) -> None:
    tensors = {"diffusion_model.linear.diff": torch.randn(8, 12), "diffusion_model.linear.diff_b": torch.randn(8),
               "diffusion_model.norm.w_norm": torch.randn(8), "diffusion_model.table.diff": torch.randn(1, 6, 8),
               "diffusion_model.point.lora_up.weight": torch.randn(8, 2),
               "diffusion_model.point.lora_down.weight": torch.randn(2, 12),
               "diffusion_model.conv.alpha": torch.tensor(1),
               "diffusion_model.conv.lora_A.weight": torch.randn(2, 6, 3, 3),
               "diffusion_model.conv.lora_B.weight": torch.randn(8, 2, 1, 1),
               "diffusion_model.conv.lora_B.bias": torch.randn(8)}  # fmt: skip
    file = write(tmp_path / "full.safetensors", tensors)
    get = {key.removeprefix("diffusion_model."): tensor for key, tensor in tensors.items()}
    point = (get["point.lora_up.weight"] @ get["point.lora_down.weight"])[..., None, None]
    for name, change in {
        "linear.weight": get["linear.diff"], "linear.bias": get["linear.diff_b"], "norm.weight": get["norm.w_norm"],
        "table": get["table.diff"], "point.weight": point, "conv.bias": get["conv.lora_B.bias"] / 2,
    }.items():  # fmt: skip
        before, during = merged(Small(), file, name, strength=0.5)
        torch.testing.assert_close(during, before + 0.5 * change, atol=1e-6, rtol=1e-5)
    report = apply([Adapter(file)], Networks({"denoiser": Small()})).reports[0]  # type: ignore[arg-type]
    assert report.used == report.keys == len(tensors) and not report.unmatched
    assert report.kinds == {"full": 3, "LoRA": 2}


def test_a_file_of_one_difference_is_no_embedding(tmp_path: Path) -> None:
    file = write(tmp_path / "one.safetensors", {"diffusion_model.linear.diff": torch.ones(8, 12)})
    before, during = merged(Small(), file, "linear.weight")
    torch.testing.assert_close(during, before + 1)


def test_the_sum_is_rounded_once(tmp_path: Path) -> None:
    network = Small().to(torch.bfloat16)
    weight = network.linear.weight.detach().float()
    layers = [{"linear": (torch.randn(2, 12), torch.randn(8, 2) * 1e-3)} for _ in range(5)]
    files = [write(tmp_path / f"{k}.safetensors", kohya(own, "lora_unet")) for k, own in enumerate(layers)]
    family: Any = Networks({"denoiser": network})
    applied = apply([Adapter(file) for file in files], family)
    total = weight.double()
    for file in files:
        _, during = merged(Small().double(), file, "linear.weight")
        total = total + (during - Small().double().linear.weight.detach())
    with entered(applied, family.components):
        assert torch.equal(network.linear.weight, total.to(torch.bfloat16))


def test_keeps_a_layout_in_memory(tmp_path: Path) -> None:
    network = Small().to(memory_format=torch.channels_last)
    pair = torch.randn(2, 6, 3, 3), torch.randn(8, 2, 1, 1)
    file = write(tmp_path / "conv.safetensors", kohya({"conv": pair}, "lora_unet", alpha=None))
    family: Any = Networks({"denoiser": network})
    plain = network.conv.weight.detach().clone()
    with entered(apply([Adapter(file)], family), family.components):
        assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
        want = plain + (pair[1].flatten(1) @ pair[0].flatten(1)).reshape(plain.shape)
        torch.testing.assert_close(network.conv.weight.detach(), want)


@pytest.fixture
def lora(sd_folder: Path, tmp_path: Path) -> Path:
    parts = diffgen.load(sd_folder).family.components
    tensors = kohya(pairs(parts["denoiser"], ATTENTION + CONVOLUTIONS), "lora_unet")
    tensors |= kohya(pairs(parts["text_encoder"], TEXT), "lora_te")
    return write(tmp_path / "style.safetensors", tensors)


def fails(monkeypatch: pytest.MonkeyPatch, family: Any) -> None:
    """Makes the step after the next fail."""
    calls = []
    whole = type(family).predict

    def predict(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return whole(self, *args)

    monkeypatch.setattr(type(family), "predict", predict)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("end", ["done", "cancelled", "failed"])
def test_weights_are_put_back_to_the_bit(
    end: str, dtype: str, lora: Path, sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = diffgen.load(sd_folder, dtype=dtype)
    components = model.family.components
    before = bits(components)
    places = {name: weight.data_ptr() for name, weight in components["denoiser"].named_parameters()}
    events = stream(model, prepare(model, PROMPT, adapters=[lora], **CALL))
    next(events)
    changed = [name for name, weight in bits(components).items() if not torch.equal(weight, before[name])]
    # The text encoder is patched for its own time only, which is over.
    assert changed and all(name.startswith("denoiser") for name in changed)
    if end == "failed":
        fails(monkeypatch, model.family)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(events)
    elif end == "cancelled":
        events.close()  # type: ignore[attr-defined]
    else:
        list(events)
    after = bits(components)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert places == {name: weight.data_ptr() for name, weight in components["denoiser"].named_parameters()}


def test_a_step_up_to_float32_in_the_midst_is_undone_too(lora: Path, sd_folder: Path) -> None:
    family = diffgen.load(sd_folder, dtype="bfloat16").family
    before = bits(family.components)
    with entered(apply([Adapter(lora)], family), family.components), in_float32("denoiser")(family.components):
        assert family.components["denoiser"].dtype == torch.float32
    after = bits(family.components)
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_text_strength_and_strength_act_apart(lora: Path, sd_folder: Path) -> None:
    family = diffgen.load(sd_folder).family
    before = bits(family.components)
    for strength, text_strength, side in ((0.0, 1.0, "text_encoder"), (1.0, 0.0, "denoiser")):
        adapter = Adapter(lora, strength=strength, text_strength=text_strength)
        with entered(apply([adapter], family), family.components):
            now = bits(family.components)
        assert {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])} == {side}


def test_what_is_unmatched_is_counted_and_said(lora: Path, sd_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(lora)
    stray = {"lora_unet_nowhere_at_all.lora_down.weight": torch.ones(2, 4), "some.thing": torch.ones(1),
             "lora_unet_nowhere_at_all.lora_up.weight": torch.ones(4, 2),
             "lora_unet_conv_in.lora_up.weight": torch.ones(4, 2),
             "lora_unet_conv_out.lora_down.weight": torch.ones(2, 99, 3, 3),
             "lora_unet_conv_out.lora_up.weight": torch.ones(4, 2, 1, 1)}  # fmt: skip
    file = write(tmp_path / "stray.safetensors", tensors | stray)
    [report] = apply([Adapter(file)], diffgen.load(sd_folder).family).reports
    assert set(report.unmatched) == set(stray)
    assert (report.keys, report.used) == (len(tensors) + 6, len(tensors))
    reasons = set(report.unmatched.values())
    assert reasons == {
        "not of a known kind", "no such layer in this model", "a part of the layer is missing",
        "it is made for a layer of 4 x 99 x 3 x 3, and this model's has 4 x 8 x 3 x 3",
    }  # fmt: skip
    [picture] = text_to_image(diffgen.load(sd_folder), PROMPT, adapters=[file], **CALL)
    assert any("6 of" in note and "took no effect" in note for note in picture.recipe.notes), picture.recipe.notes


@pytest.mark.parametrize(("make", "says"), [
    (lambda tensors: {f"x{key}": tensor for key, tensor in tensors.items()}, "none of its .* keys has a place"),
    (lambda tensors: {key: torch.zeros_like(tensor) if "_up" in key else tensor for key, tensor in tensors.items()},
     "its weights are zero"),
    (lambda tensors: {"model.diffusion_model.conv_in.weight": torch.ones(4)}, "changes nothing"),
])  # fmt: skip
def test_a_lora_that_changes_nothing_is_refused(
    make: Callable[[dict[str, Tensor]], dict[str, Tensor]], says: str, lora: Path, sd_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    file = write(tmp_path / "idle.safetensors", make(load_file(lora)))
    with pytest.raises(UsageError, match=says):
        prepare(diffgen.load(sd_folder), PROMPT, adapters=[file], **CALL)


def test_a_lora_of_another_family_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    flux = diffgen.load(tiny_a.flux(tmp_path / "flux")).family
    file = write(tmp_path / "flux.safetensors", peft(pairs(flux.components["denoiser"], ATTENTION), "transformer"))
    with pytest.raises(UsageError, match="no such layer in this model"):
        apply([Adapter(file)], diffgen.load(sd_folder).family)


def test_a_layer_named_twice_acts_once(tmp_path: Path) -> None:
    pair = torch.randn(2, 12), torch.randn(8, 2)
    tensors = kohya({"linear": pair}, "lora_unet", alpha=None) | peft({"linear": (pair[0] + 0, pair[1] + 0)}, "unet")
    file = write(tmp_path / "twice.safetensors", tensors)
    before, during = merged(Small(), file, "linear.weight")
    torch.testing.assert_close(during, before + pair[1] @ pair[0])
    [report] = apply([Adapter(file)], Networks({"denoiser": Small()})).reports  # type: ignore[arg-type]
    assert set(report.unmatched.values()) == {"the file changes the same layer under another name"}


def test_fused_layers_reach_every_part(tmp_path: Path) -> None:
    family = diffgen.load(tiny_a.flux(tmp_path / "flux")).family
    down, up = torch.randn(2, 32), torch.randn(32 * 3 + 128, 2)
    final = torch.randn(2, 32), torch.randn(64, 2)
    layers = {"single_blocks.1.linear1": (down, up), "final_layer.adaLN_modulation.1": final}
    file = write(tmp_path / "fused.safetensors", peft(layers, "diffusion_model"))
    before = bits(family.components)
    with entered(apply([Adapter(file)], family), family.components):
        now = bits(family.components)
    rows, block = up @ down, "denoiser.single_transformer_blocks.1"
    for k, name in enumerate(("attn.to_q", "attn.to_k", "attn.to_v")):
        part = now[f"{block}.{name}.weight"] - before[f"{block}.{name}.weight"]
        torch.testing.assert_close(part, rows[32 * k : 32 * (k + 1)], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(now[f"{block}.proj_mlp.weight"] - before[f"{block}.proj_mlp.weight"], rows[96:],
                               atol=1e-5, rtol=1e-4)  # fmt: skip
    shift, scale = (final[1] @ final[0]).chunk(2)
    part = now["denoiser.norm_out.linear.weight"] - before["denoiser.norm_out.linear.weight"]
    torch.testing.assert_close(part, torch.cat([scale, shift]), atol=1e-5, rtol=1e-4)


def test_dora_of_a_fused_layer_measures_the_whole(tmp_path: Path) -> None:
    family = diffgen.load(tiny_a.flux(tmp_path / "flux")).family
    names = [f"transformer_blocks.0.attn.to_{part}.weight" for part in "qkv"]
    weight = torch.cat([family.components["denoiser"].get_parameter(name).detach() for name in names])
    down, up, scale = torch.randn(2, 32), torch.randn(96, 2), torch.rand(1, 32) + 0.5
    tensors = {**peft({"double_blocks.0.img_attn.qkv": (down, up)}, "diffusion_model"),
               "diffusion_model.double_blocks.0.img_attn.qkv.dora_scale": scale}  # fmt: skip
    other = kohya({"transformer_blocks.0.attn.to_q": (torch.randn(2, 32), torch.randn(32, 2))}, "lora_transformer")
    files = [write(tmp_path / "other.safetensors", other), write(tmp_path / "dora.safetensors", tensors)]
    moved = weight + up @ down
    want = scale * moved / moved.norm(dim=0, keepdim=True)
    with entered(apply([Adapter(file) for file in files], family), family.components):
        found = [family.components["denoiser"].get_parameter(name).detach() for name in names]
    torch.testing.assert_close(torch.cat(found[1:]), want[32:], atol=1e-5, rtol=1e-4)


def test_two_experts(tmp_path: Path) -> None:
    family = diffgen.load(tiny_clips.wan(tmp_path / "wan", kind="2.2")).family
    before = bits(family.components)

    def changed(tensors: dict[str, Tensor], **options: Any) -> set[str]:
        file = write(tmp_path / "wan.safetensors", tensors)
        with entered(apply([Adapter(file, **options)], family), family.components):
            now = bits(family.components)
        return {name.split(".")[0] for name in now if not torch.equal(now[name], before[name])}

    layers = pairs(family.components["denoiser"], ("attn1.to_q",))
    assert changed(peft(layers, "transformer")) == {"denoiser"}
    assert changed(peft(layers, "transformer_2")) == {"denoiser_2"}
    assert changed(kohya(layers, "lora_unet")) == {"denoiser", "denoiser_2"}
    assert changed(kohya(layers, "lora_unet"), blocks={"denoiser": 0.0}) == {"denoiser_2"}


class Eight(nn.Module):
    """A linear layer whose weight is kept in 8 bits, as quantisers do it."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.step = float(plain.weight.detach().abs().max()) / 127
        self.weight = nn.Parameter((plain.weight.detach() / self.step).round().to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight.float() * self.step)


def test_quantised_layers_get_it_beside_them(tmp_path: Path) -> None:
    network = Small(bias=False)
    network.linear = Eight(network.linear)  # type: ignore[assignment]
    pair = torch.randn(2, 12), torch.randn(8, 2)
    hada = {f"lora_unet_linear.hada_w{k}_{s}": torch.randn(8, 2) if s == "a" else torch.randn(2, 12)
            for k in (1, 2) for s in "ab"}  # fmt: skip
    tables = {"a": kohya({"linear": pair}, "lora_unet"), "b": hada}
    files = [write(tmp_path / f"{name}.safetensors", tensors) for name, tensors in tables.items()]
    family: Any = Networks({"denoiser": network})
    x = torch.randn(3, 5, 12)
    plain = network.linear(x)
    a1, b1, a2, b2 = hada.values()
    with entered(apply([Adapter(files[0], strength=0.5), Adapter(files[1])], family), family.components):
        found = network.linear(x)
    want = plain + x @ (0.5 * pair[1] @ pair[0] + (a1 @ b1) * (a2 @ b2)).T
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    assert torch.equal(network.linear(x), plain)
    dora = {**kohya({"linear": pair}, "lora_unet"), "lora_unet_linear.dora_scale": torch.ones(8, 1)}
    with (pytest.raises(UsageError, match="is a DoRA, which cannot change the quantised layer linear"),
          entered(apply([Adapter(write(tmp_path / "c.safetensors", dora))], family), family.components)):  # fmt: skip
        pass
    assert torch.equal(network.linear(x), plain)


def test_float8_weights_keep_a_small_change(tmp_path: Path) -> None:
    from diffusers.hooks import apply_layerwise_casting

    network = nn.Sequential(nn.Linear(12, 8))
    pair = torch.randn(2, 12) * 0.01, torch.randn(8, 2) * 0.01
    apply_layerwise_casting(network, storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    family: Any = Networks({"denoiser": network})
    x = torch.randn(4, 12)
    plain = network(x)
    file = write(tmp_path / "a.safetensors", kohya({"0": pair}, "lora_unet", alpha=None))
    with entered(apply([Adapter(file)], family), family.components):
        torch.testing.assert_close(network(x) - plain, x @ (pair[1] @ pair[0]).T, atol=1e-6, rtol=1e-3)
    assert np.array_equal(network(x).detach().numpy(), plain.detach().numpy())
