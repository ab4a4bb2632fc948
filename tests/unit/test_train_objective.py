import math

import pytest
import torch

from diffgen.path import betas_path, mix, to_x0
from diffgen.train.objective import Density, coefficients, denoising_loss

PATH = betas_path(kind="squaredcos_cap_v2", zero_snr=True)


@pytest.mark.parametrize("prediction", ["v", "flow", "x0"])
def test_a_network_that_gives_the_target_has_no_loss_and_returns_the_clean_sample(prediction):
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 2, 3, 3, generator=generator) for _ in range(2))
    indices = torch.tensor([0, 300, 700, 999])
    alpha, sigma = coefficients(PATH, indices, 4)
    seen = {}

    def network(x, times):
        from diffgen.path import target

        seen["x"], seen["output"] = x, target(prediction, x0, noise, alpha, sigma)
        assert torch.equal(times, indices)
        return seen["output"]

    loss = denoising_loss(network, x0, indices, noise, PATH, prediction)
    assert loss.shape == (4,) and float(loss.max()) == 0
    assert torch.equal(seen["x"], mix(x0, noise, alpha, sigma))
    torch.testing.assert_close(to_x0(prediction, seen["output"], seen["x"], alpha, sigma), x0, atol=1e-4, rtol=1e-4)


def test_the_density_has_its_median_where_it_says_and_reaches_pure_noise():
    density = Density(mean=0.5, spread=1.0, uniform=0.1)
    drawn = density.draw(PATH, 20_000, torch.Generator().manual_seed(0))
    logs = torch.tensor([math.log(PATH.level(int(i))) for i in drawn])
    assert abs(float(logs.median()) - 0.5) < 0.1
    assert int(drawn.max()) == 999 and int(drawn.min()) < 10


def test_the_last_index_is_pure_noise_and_the_coefficients_are_the_path_s():
    alpha, sigma = coefficients(PATH, torch.tensor([999]), 4)
    assert float(alpha) < 1e-3 and float(sigma) == pytest.approx(1.0)
    assert alpha.shape == (1, 1, 1, 1)
