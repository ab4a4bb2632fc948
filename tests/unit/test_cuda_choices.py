"""What is chosen on CUDA devices, with simulated ones: no GPU is needed, and none of it has run on one."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, WanTransformer3DModel
from torch.nn import functional as F

from diffgen.attention import Rerouting
from diffgen.errors import UnsupportedError
from diffgen.kernels import carry, cuda
from diffgen.kernels.cuda import Device, Settings, Shape, backend, settings

ALL = frozenset(cuda.LIBRARIES)
TURING = Device(name="T4", capability=(7, 5), libraries=ALL)
AMPERE = Device(name="A100", capability=(8, 0), libraries=ALL)
BARE = Device(name="A100", capability=(8, 0))
ADA = Device(name="L4", capability=(8, 9), libraries=frozenset({"xformers"}))
HOPPER = Device(name="H100", capability=(9, 0))
PASCAL = Device(name="P100", capability=(6, 0), libraries=ALL)


@pytest.mark.parametrize(
    ("device", "shape", "exact", "expected"),
    [
        (AMPERE, Shape(width=64, dtype="bfloat16"), True, "flash"),
        (AMPERE, Shape(width=64, dtype="bfloat16"), False, "sage"),
        (AMPERE, Shape(width=40, dtype="bfloat16"), False, "flash"),  # sage has no kernel for heads of 40
        (AMPERE, Shape(width=64, dtype="float32"), True, "xformers"),
        (AMPERE, Shape(width=64, dtype="bfloat16", mask=True), True, "xformers"),
        (AMPERE, Shape(width=512, dtype="bfloat16"), True, "native"),  # the single wide head of an autoencoder
        (AMPERE, Shape(width=42, dtype="float16"), True, "native"),
        (BARE, Shape(width=64, dtype="bfloat16"), True, "native"),
        (HOPPER, Shape(width=128, dtype="bfloat16"), True, "cudnn"),
        (HOPPER, Shape(width=256, dtype="bfloat16"), True, "native"),
        (HOPPER, Shape(width=128, dtype="bfloat16", mask=True), True, "native"),
        (ADA, Shape(width=64, dtype="float16"), True, "xformers"),
        (TURING, Shape(width=64, dtype="float16"), True, "xformers"),
        (PASCAL, Shape(width=64, dtype="float16"), False, "native"),
    ],
)
def test_the_backend_follows_capability_head_dtype_mask_and_what_is_installed(
    device: Device, shape: Shape, exact: bool, expected: str
) -> None:
    assert backend(device, shape, exact=exact) == expected


@pytest.mark.parametrize("device", [TURING, AMPERE, ADA, HOPPER, PASCAL])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_exact_run_rounds_nothing_more(device: Device, dtype: str) -> None:
    found = settings(device, dtype, evaluations=10_000)
    assert not found.tf32 and not found.fp8 and found.compile == "off" and not found.graphs


def test_settings_follow_the_device_and_the_length_of_the_run() -> None:
    assert settings(AMPERE, "float32", exact=False).tf32 and not settings(TURING, "float32", exact=False).tf32
    assert settings(ADA, "bfloat16", exact=False).fp8 and not settings(AMPERE, "bfloat16", exact=False).fp8
    assert settings(TURING, "float16").channels_last and not settings(PASCAL, "float16").channels_last
    assert settings(HOPPER, "bfloat16", exact=False, evaluations=50).compile == "off"
    long = settings(HOPPER, "bfloat16", exact=False, evaluations=500)
    assert long.compile == "blocks" and long.graphs
    assert not settings(HOPPER, "bfloat16", exact=False, evaluations=500, fixed=False).graphs
    assert "500" in long.reasons["compile"]


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins with the libraries' signatures and layouts, which note that they were called."""
    called: list[str] = []

    def heads_last(name: str, scale_name: str) -> Any:
        def run(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any) -> torch.Tensor:
            called.append(name)
            by_head = (tensor.transpose(1, 2) for tensor in (query, key, value))
            return F.scaled_dot_product_attention(*by_head, scale=more[scale_name]).transpose(1, 2)

        return run

    def sage(query: Any, key: Any, value: Any, *, tensor_layout: str, sm_scale: float | None) -> Any:
        called.append("sage")
        assert tensor_layout == "HND"
        return F.scaled_dot_product_attention(query, key, value, scale=sm_scale)

    monkeypatch.setitem(
        sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=heads_last("flash", "softmax_scale"))
    )
    monkeypatch.setitem(sys.modules, "sageattention", SimpleNamespace(sageattn=sage))
    xformers = SimpleNamespace(memory_efficient_attention=heads_last("xformers", "scale"))
    monkeypatch.setitem(sys.modules, "xformers.ops", xformers)
    return called


@pytest.mark.parametrize("name", ["flash", "sage", "xformers"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_each_library_is_called_in_its_own_layout(name: str, scale: float | None, libraries: list[str]) -> None:
    query, key, value = (torch.randn(2, 3, tokens, 8) for tokens in (5, 7, 7))
    found = carry.CALLS[name](query, key, value, scale=scale)
    assert torch.allclose(found, F.scaled_dot_product_attention(query, key, value, scale=scale), atol=1e-6)
    assert libraries == [name]


def test_masked_calls_stay_with_torch_and_others_go_to_the_library(libraries: list[str]) -> None:
    query, mask = torch.randn(1, 2, 4, 64), torch.ones(4, 4, dtype=torch.bool)
    mode = Rerouting(carry.by_device(AMPERE))
    with mode:
        F.scaled_dot_product_attention(query, query, query)
        F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
        F.scaled_dot_product_attention(query, query, query, is_causal=True)
    assert libraries == ["xformers"] and mode.taken == 1


def wan() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=24, freq_dim=32,
        ffn_dim=64, num_layers=2, rope_max_seq_len=32,
    ).eval()  # fmt: skip


def test_everything_is_undone_and_the_result_is_the_same(libraries: list[str]) -> None:
    network = wan()
    given = {"hidden_states": torch.randn(1, 4, 1, 8, 8), "timestep": torch.tensor([5.0]),
             "encoder_hidden_states": torch.randn(1, 7, 24)}  # fmt: skip
    flags = torch.backends.cuda.matmul.allow_tf32
    with torch.inference_mode():
        before = network(**given)[0]
        with carry.on_cuda(AMPERE, Settings(tf32=True, channels_last=True))({"denoiser": network}):
            assert torch.backends.cuda.matmul.allow_tf32
            found = network(**given)[0]
        assert torch.allclose(found, before, atol=1e-5) and libraries == ["xformers"] * 4
        assert torch.equal(network(**given)[0], before)
    assert torch.backends.cuda.matmul.allow_tf32 == flags


def test_a_network_without_attention_or_blocks_is_an_error_not_a_silence() -> None:
    tiny = AutoencoderTiny()
    with pytest.raises(UnsupportedError, match="no attention"), carry.on_cuda(HOPPER, Settings())({"denoiser": tiny}):
        pass
    with pytest.raises(UnsupportedError, match="no repeated blocks"), carry.compiled(tiny):
        pass


def test_blocks_are_compiled_for_the_time_of_the_run_alone() -> None:
    network = wan()
    blocks = carry.repeated_blocks(network)
    assert [type(block).__name__ for block in blocks] == ["WanTransformerBlock"] * 2
    with carry.compiled(network, backend="eager"):
        assert all(block._compiled_call_impl is not None for block in blocks)
    assert all(block._compiled_call_impl is None for block in blocks)


def test_the_doctor_describes_a_device() -> None:
    told = cuda.describe(HOPPER)
    assert told["capability"] == "9.0" and told["attention"]["128"] == "cudnn" and told["libraries"] == "none"
