"""The step up to float32 leaves a network of mixed dtypes exactly as it found it."""

from __future__ import annotations

import torch

from diffgen.families.common import in_float32


def test_mixed_dtypes_come_back_to_the_bit() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4).to(torch.bfloat16), torch.nn.LayerNorm(4))
    net.register_buffer("table", torch.randn(3).to(torch.float16))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with in_float32("denoiser")({"denoiser": net}):
        assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32}
    for name, tensor in net.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])
