"""The training objective: which noise levels are shown, and the loss at one.

Both rest on `diffgen.path`, which sampling uses too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffgen.path import DiscretePath, Prediction, mix, target

Network = Callable[[Tensor, Tensor], Tensor]  # (noised sample, time per row) -> output, same shape as the sample


@dataclass(frozen=True, kw_only=True)
class Density:
    """How often each noise level is trained.

    Args:
        mean, spread: ln(sigma / alpha) is drawn from this normal distribution. A mean of 0 is flow matching's
            logit-normal density; above 0 it leans to noise, where a picture's layout is decided.
        uniform: share drawn evenly over the training indices instead, so that none goes unseen. Sampling starts at
            the last one, which the normal distribution never reaches.
    """

    mean: float = 0.5
    spread: float = 1.1
    uniform: float = 0.15

    def draw(self, path: DiscretePath, count: int, generator: torch.Generator) -> Tensor:
        """Training indices, int64 [count]."""
        logs = torch.tensor([math.log(path.level(i)) for i in range(len(path.alphas_cumprod))])
        wanted = self.mean + self.spread * torch.randn(count, generator=generator)
        shaped = torch.searchsorted(logs, wanted).clamp(max=len(logs) - 1)
        even = torch.randint(len(logs), (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < self.uniform, even, shaped)


def coefficients(path: DiscretePath, indices: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """alpha and sigma at training indices, float32 [n, 1, ...] with `dims` dimensions."""
    pairs = [path.coefficients(path.level(int(i))) for i in indices]
    alpha, sigma = torch.tensor(pairs, dtype=torch.float32).unbind(1)
    shape = (-1, *(1,) * (dims - 1))
    return alpha.view(shape), sigma.view(shape)


def denoising_loss(
    network: Network, x0: Tensor, indices: Tensor, noise: Tensor, path: DiscretePath, prediction: Prediction
) -> Tensor:
    """Mean squared error of the network's output against `diffgen.path.target`, one value a row [n], float32.

    Args:
        x0: clean latents [n, channels, height, width], float32, variance near 1.
        indices: training indices, int64 [n].
        noise: unit Gaussian, like `x0`.
    """
    alpha, sigma = coefficients(path, indices, x0.dim())
    output = network(mix(x0, noise, alpha, sigma), indices)
    error = output.float() - target(prediction, x0, noise, alpha, sigma)
    return error.square().flatten(1).mean(1)
