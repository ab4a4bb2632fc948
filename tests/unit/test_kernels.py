"""Kernels: what they compute is what torch computes, they come off without a trace, and they see every new weight."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, WanTransformer3DModel

import diffgen
from diffgen import kernels, perturbation
from diffgen.app import cli
from diffgen.errors import UsageError
from diffgen.families.common import in_float32
from diffgen.kernels import machine, native, packing, probe
from diffgen.kernels.choice import Choice
from diffgen.kernels.layers import patch, release
from diffgen.pipelines import replay, text_to_image

ALL = Choice(linear="packed", conv="packed", blocks="fused")
PRODUCTS = dict.fromkeys(("long-narrow", "middle-narrow", "short-narrow"), "products")
CHUNKED = dict.fromkeys(PRODUCTS, "chunked")
CHOICES = [
    Choice(linear="packed"), Choice(conv="channels_last"), Choice(conv="packed"), Choice(blocks="fused"), ALL,
    Choice(attention=PRODUCTS), Choice(attention=CHUNKED),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def unet(norm: str = "default") -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, attention_head_dim=4, norm_num_groups=8, resnet_time_scale_shift=norm,
    ).eval()  # fmt: skip


def wan() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=24, freq_dim=32,
        ffn_dim=64, num_layers=2, cross_attn_norm=True, rope_max_seq_len=32,
    ).eval()  # fmt: skip


def inputs(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    dtype = next(network.parameters()).dtype
    if isinstance(network, UNet2DConditionModel):
        x, name = torch.randn(2, 4, 16, 16), "sample"
    else:
        x, name = torch.randn(2, 4, 3, 8, 8), "hidden_states"
    return {name: x.to(dtype), "timestep": torch.tensor([500.0, 20.0]),
            "encoder_hidden_states": torch.randn(2, 7, 24).to(dtype)}  # fmt: skip


def run(network: torch.nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return network(**given, return_dict=False)[0]


@pytest.mark.parametrize("make", [unet, lambda: unet("scale_shift"), wan], ids=["unet", "scale-shift", "dit"])
@pytest.mark.parametrize("choice", CHOICES, ids=Choice.to_text)
def test_float32_is_what_torch_computes_and_comes_off_without_a_trace(make, choice: Choice) -> None:  # type: ignore[no-untyped-def]
    network = make()
    given = inputs(network)
    before, state = run(network, given), {key: tensor.clone() for key, tensor in network.state_dict().items()}
    own = [name for name, module in network.named_modules() if "forward" in module.__dict__]
    with patch(choice)({"denoiser": network}):
        found = run(network, given)
    assert (found - before).abs().max() <= 1e-5 * before.abs().max()
    assert torch.equal(run(network, given), before)
    assert own == [name for name, module in network.named_modules() if "forward" in module.__dict__]
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


@pytest.mark.skipif(not native.supported("linear", torch.bfloat16), reason="no bfloat16 kernels on this processor")
@pytest.mark.parametrize("make", [unet, wan])
def test_bfloat16_is_as_near_to_float32_as_torch_is(make) -> None:  # type: ignore[no-untyped-def]
    network = make()
    exact_given = inputs(network)
    network.to(torch.bfloat16)
    given = {key: t.to(torch.bfloat16) if key != "timestep" else t for key, t in exact_given.items()}
    theirs = run(network, given).float()
    with patch(ALL)({"denoiser": network}):
        ours = run(network, given).float()
    network.float()
    exact = run(network, {key: t.float() for key, t in given.items()})
    assert (ours - exact).norm() <= 1.1 * (theirs - exact).norm()


def test_decoding_too() -> None:
    vae = AutoencoderKL(block_out_channels=(16, 32), down_block_types=["DownEncoderBlock2D"] * 2, latent_channels=4,
                        up_block_types=["UpDecoderBlock2D"] * 2, norm_num_groups=4).eval()  # fmt: skip
    z = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        before = vae.decode(z).sample
        with patch(ALL)({"vae": vae}):
            assert (vae.decode(z).sample - before).abs().max() <= 1e-5 * before.abs().max()
            assert any("forward" in module.__dict__ for module in vae.decoder.modules())


def test_a_weight_changed_or_exchanged_between_runs_is_packed_anew() -> None:
    layer = torch.nn.Linear(8, 8)
    components, x = {"denoiser": torch.nn.Sequential(layer)}, torch.randn(32, 8)
    for change in (lambda: None, lambda: layer.weight.mul_(2), lambda: setattr(layer.weight, "data", torch.ones(8, 8))):
        with torch.no_grad():
            change()
        with torch.inference_mode(), patch(Choice(linear="packed"))(components):
            assert torch.allclose(components["denoiser"](x), torch.nn.functional.linear(x, layer.weight, layer.bias))


def test_one_network_may_run_by_one_choice_after_another() -> None:
    network = unet()
    given = inputs(network)
    before = run(network, given)
    for choice in (*CHOICES, *reversed(CHOICES)):
        with patch(choice)({"denoiser": network}):
            assert (run(network, given) - before).abs().max() <= 1e-5 * before.abs().max()


def test_a_merged_adapter_within_the_run_is_seen_and_its_removal_too() -> None:
    network = unet()
    given = inputs(network)
    plain = run(network, given)

    weight = network.conv_in.weight
    with patch(ALL)({"denoiser": network}):
        run(network, given)
        kept, weight.data = weight.data, weight.data * 2
        inside = run(network, given)
        weight.data = kept
        assert (run(network, given) - plain).abs().max() <= 1e-5 * plain.abs().max()
    weight.data = kept * 2
    assert (inside - run(network, given)).abs().max() <= 1e-5 * plain.abs().max()
    assert (inside - plain).abs().max() > 1e-3


def test_the_step_up_to_float32_within_a_run_is_followed() -> None:
    network = unet().to(torch.bfloat16)
    given = inputs(network)
    wide = {key: tensor.float() for key, tensor in given.items()}
    with patch(ALL)({"denoiser": network}):
        low = run(network, given)
        with in_float32("denoiser")({"denoiser": network}):
            high = run(network, wide)
        assert torch.equal(run(network, given), low)
    with in_float32("denoiser")({"denoiser": network}):
        assert torch.allclose(high, run(network, wide), atol=1e-5)


@pytest.mark.parametrize("kind", ["identity", "smooth"])
def test_a_guidance_that_changes_attention_is_not_bypassed(kind: str) -> None:
    network = unet()
    given, weaken = inputs(network), perturbation.attention(kind)
    components = {"denoiser": network}
    with weaken(components):
        expected = run(network, given)
    with patch(Choice(attention=PRODUCTS))(components), weaken(components):  # type: ignore[arg-type]
        assert torch.allclose(run(network, given), expected, atol=1e-5)
    assert not torch.allclose(run(network, given), expected, atol=1e-4)


def test_layers_with_hooks_and_quantised_weights_are_left_alone() -> None:
    class Packed(torch.nn.Parameter):
        pass

    hooked, quantised = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, given, out: out + 1)
    quantised.weight = Packed(quantised.weight.data)
    network = torch.nn.Sequential(hooked, quantised)
    with patch(ALL)({"denoiser": network}):
        assert all("forward" not in module.__dict__ for module in network)


def test_training_goes_the_usual_way_and_gets_its_gradients() -> None:
    layer = torch.nn.Linear(8, 8)
    with patch(ALL)({"denoiser": torch.nn.Sequential(layer)}):
        layer(torch.randn(32, 8)).sum().backward()
    assert layer.weight.grad is not None


def test_packed_weights_can_be_dropped() -> None:
    network = unet()
    with patch(ALL)({"denoiser": network}):
        run(network, inputs(network))
    assert network.conv_in in packing._STORE
    release(network)
    assert network.conv_in not in packing._STORE


def test_missing_operators_leave_torch_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    native.supported.cache_clear()
    monkeypatch.setattr(native, "pack_linear", missing)
    try:
        assert not native.supported("linear", torch.float32) and not native.supported("fused", torch.float32)
        network = unet()
        with patch(ALL)({"denoiser": network}):
            assert "forward" not in network.time_embedding.linear_1.__dict__
            run(network, inputs(network))
    finally:
        native.supported.cache_clear()


@pytest.mark.parametrize("choice", CHOICES, ids=Choice.to_text)
def test_a_choice_survives_its_text(choice: Choice) -> None:
    assert Choice.from_text(choice.to_text()) == choice


@pytest.mark.parametrize("text", ["linear", "linear=fast", "long-narrow=flash", "colour=red"])
def test_unknown_kernels_are_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="known:|accepted:"):
        Choice.from_text(text)


def test_the_fastest_route_wins_by_a_margin_and_sizes_are_added() -> None:
    times = {
        "linear a": {"plain": 10.0, "packed": 9.9}, "conv a": {"plain": 4.0, "channels_last": 3.0, "packed": 3.5},
        "conv b": {"plain": 4.0, "channels_last": 3.0, "packed": 1.0}, "long-wide": {"library": 10.0, "chunked": 9.0},
    }  # fmt: skip
    assert probe.decide(times) == Choice(conv="packed"), "another route of attention has to be worth it"
    times["long-wide"] = {"library": 10.0, "chunked": 7.0}
    assert probe.decide(times) == Choice(conv="packed", attention={"long-wide": "chunked"})


def test_measured_once_and_kept_for_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.dtype] = []

    def measure(dtype: torch.dtype) -> probe.Measured:
        made.append(dtype)
        return probe.Measured(choice=ALL, times={"linear": {"plain": 2.0, "packed": 1.0}}, seconds=0.1, rounds=2)

    monkeypatch.setattr(probe, "measure", measure)
    first = probe.choose(torch.float32, folder=tmp_path / "new")
    assert probe.choose(torch.float32, folder=tmp_path / "new") == first and len(made) == 1
    probe.choose(torch.bfloat16, folder=tmp_path / "new")
    assert made == [torch.float32, torch.bfloat16]
    probe.choose(torch.float32, folder=tmp_path / "new", anew=True)
    monkeypatch.setattr(probe.machine, "fingerprint", lambda: {"processor": "another"})
    probe.choose(torch.float32, folder=tmp_path / "new")
    assert len(made) == 4 and len(json.loads((tmp_path / "new" / "kernels.json").read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": {"float32": {"choice": 3}}}'])
def test_a_damaged_cache_is_measured_anew(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "measure", lambda dtype: probe.Measured(choice=ALL))
    (tmp_path / "kernels.json").write_text(content)
    assert probe.choose(torch.float32, folder=tmp_path).choice == ALL


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "measure", lambda dtype: probe.Measured(choice=ALL))
    (tmp_path / "file").write_text("")
    assert probe.choose(torch.float32, folder=tmp_path / "file").choice == ALL


def test_the_probe_draws_nothing_from_the_global_generator_and_times_every_case() -> None:
    before = torch.get_rng_state()
    measured = probe.measure(torch.float32, budget=0.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert measured.rounds >= 1 and {"long-narrow", "short-wide", "blocks geglu"} <= set(measured.times)
    assert probe.decide(measured.times) == measured.choice


def test_a_recipe_names_its_kernels_and_replays_by_them(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = diffgen.load(sd_folder)
    asked = dict(steps=2, size=(32, 32), seed=1)
    monkeypatch.setattr(probe, "choose", lambda dtype: probe.Measured(choice=ALL))
    monkeypatch.setattr(kernels, "SMALL", 0)
    made = text_to_image(model, "a red apple", **asked)[0]  # type: ignore[arg-type]
    assert made.recipe.kernels == ALL.to_text()
    off = text_to_image(model, "a red apple", kernels="off", **asked)[0]  # type: ignore[arg-type]
    assert off.recipe.kernels == "off" and 0 <= abs(made.pixels - off.pixels).max() <= 1e-4
    monkeypatch.setattr(probe, "choose", lambda dtype: probe.Measured(choice=Choice()))
    assert (replay(model, made.recipe).latents == made.latents).all()
    assert (replay(model, replace(made.recipe, kernels=None)).latents == off.latents).all()


def test_kernels_that_this_machine_lacks_are_told(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = diffgen.load(sd_folder)
    monkeypatch.setattr(native, "supported", lambda operation, dtype: False)
    for asked, said in ((ALL.to_text(), "not all on this machine"), ("by-device", "CUDA")):
        made = text_to_image(model, "a red apple", kernels=asked, steps=1, size=(32, 32), seed=1)[0]
        assert said in made.recipe.notes[0]


def test_what_needs_too_much_memory_is_left_to_torch(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = diffgen.load(sd_folder).family
    monkeypatch.setattr(kernels, "SMALL", 0)
    monkeypatch.setattr(machine, "available_memory", lambda: kernels.packed_bytes(family))
    assert kernels.resolve("auto", family) == "off"


def test_nothing_is_measured_for_small_networks(sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "choose", lambda dtype: pytest.fail("the measurement takes longer than the picture"))
    assert kernels.resolve("auto", diffgen.load(sd_folder).family) == "off"


def test_the_doctor_tells_what_was_picked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    times = {"linear": {"plain": 2.0, "packed": 1.0}}
    monkeypatch.setattr(probe, "choose", lambda dtype, anew: probe.Measured(choice=ALL, times=times))
    assert cli.run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kernels"]["float32"]["choice"] == ALL.to_text() and told["threads"]["free cores"] >= 1
    assert cli.run(["doctor"]) == 0
    assert "plain 2.00  packed 1.00" in capsys.readouterr().out


def test_free_cores_are_those_that_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    load = machine.Load()
    monkeypatch.setattr(machine, "cores", lambda: 4)
    for busy, expected in ((None, 4), (0.2, 4), (2.6, 1), (9.0, 1)):
        monkeypatch.setattr(machine.Load, "busy", lambda self, busy=busy: busy)
        assert machine.free_cores(load) == expected
