import itertools
import math

import pytest
import torch
from torch import nn

from diffgen.errors import NumericalError, UsageError
from diffgen.train.loop import Loop, LoopSettings, learning_rate
from diffgen.train.weights import FlatWeights, average_decay


class LineTask:
    """Learns y = 2x + 1 from points drawn by the step's generator."""

    def __init__(self, *, poison_at=None):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.poison_at = poison_at
        self.exported = []

    def loss(self, step, generator):
        x = torch.randn(16, 1, generator=generator)
        out = self.model(x.to(self.model[0].weight.dtype)).float()
        loss = (out - 2 * x - 1).square().mean()
        return {"loss": loss * math.nan if step == self.poison_at else loss}

    def sample(self, step):
        return None

    def export(self, folder):
        self.exported.append(folder)


def new_loop(folder, *, task=None, **changes):
    from accelerate import Accelerator

    settings = LoopSettings(**{"steps": 12, "lr": 1e-2, "warmup": 3, "precision": "fp32", **changes})
    return Loop(task or LineTask(), settings, folder, Accelerator(cpu=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stopping_and_resuming_gives_the_same_weights_to_the_bit(tmp_path, precision):
    whole = new_loop(tmp_path / "whole", precision=precision)
    for _ in range(12):
        whole.advance()
    first = new_loop(tmp_path / "parts", precision=precision)
    for _ in range(5):
        first.advance()
    first.save()
    second = new_loop(tmp_path / "parts", precision=precision)
    assert second.resume() == 5
    for _ in range(7):
        second.advance()
    assert torch.equal(whole.weights.master, second.weights.master)
    assert torch.equal(whole.weights.average, second.weights.average)
    assert torch.equal(whole.weights.work, second.weights.work)


def test_a_run_learns_saves_rotates_and_exports(tmp_path):
    task = LineTask()
    loop = new_loop(tmp_path, task=task, steps=120, keep=1)
    before = loop.advance()["loss"]
    loop.save()
    assert loop.run() == 120
    assert task.loss(0, torch.Generator().manual_seed(1))["loss"] < 0.2 * before
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000120.pt"]
    assert task.exported == [tmp_path / "model"]
    assert (tmp_path / "log.jsonl").is_file() and list((tmp_path / "curves").iterdir())


def test_a_loss_of_nan_stops_the_run_and_changes_nothing(tmp_path):
    loop = new_loop(tmp_path, task=LineTask(poison_at=2))
    loop.advance(), loop.advance()
    kept = loop.weights.master.clone()
    with pytest.raises(NumericalError, match="step 2"):
        loop.advance()
    assert torch.equal(loop.weights.master, kept) and loop.step == 2


def test_resuming_nothing_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="nothing to resume"):
        new_loop(tmp_path).resume()


def test_the_average_follows_its_formula_and_leaves_the_weights_as_they_were():
    model = nn.Linear(2, 2)
    flat = FlatWeights(model)
    start = flat.master.clone()
    flat.master += 1
    flat.push()
    flat.average_in(0.9)
    torch.testing.assert_close(flat.average, start + 0.1)
    held = model.weight.detach().clone()
    with flat.averaged():
        torch.testing.assert_close(model.weight.detach().flatten(), flat.average[:4])
    assert torch.equal(model.weight.detach(), held) and model.weight.grad is not None
    assert average_decay(0, 0.999) == 0.1 and average_decay(10**9, 0.999) == 0.999


def test_the_learning_rate_rises_holds_and_falls():
    settings = LoopSettings(steps=100, lr=1.0, warmup=10, decay=0.5, final_lr=0.1)
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[0] == 0.1 and rates[9] == rates[30] == rates[50] == 1.0
    assert rates[100] == pytest.approx(0.1) and all(a >= b for a, b in itertools.pairwise(rates[50:]))


def test_a_signal_to_stop_saves_first(tmp_path):
    import os
    import signal

    class Interrupted(LineTask):
        def loss(self, step, generator):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(step, generator)

    loop = new_loop(tmp_path, task=Interrupted())
    assert loop.run() == 5
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005.pt"]


def test_muon_turns_the_gradient_of_a_matrix_orthogonal_and_leaves_vectors_to_adamw():
    from diffgen.train.optimizers import Optimizer

    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Linear(4, 2))
    weights = FlatWeights(module)
    before = [view.clone() for view in weights.views(weights.master)]
    gradient = torch.randn(weights.master.shape, generator=generator)
    plain = FlatWeights(nn.Sequential(nn.Conv2d(32, 64, 3), nn.Linear(4, 2)))
    plain.master.copy_(weights.master)
    Optimizer("muon", weights, lr=0.1, beta2=0.98, weight_decay=0.0).step(gradient, 0.1)
    Optimizer("adamw", plain, lr=0.1, beta2=0.98, weight_decay=0.0).step(gradient, 0.1)
    change = (weights.views(weights.master)[0] - before[0]).flatten(1)
    singular = torch.linalg.svdvals(change)
    assert singular.max() < 2.5 * singular.min(), "Newton-Schulz leaves singular values within 0.5 to 1.5 of one size"
    assert not torch.allclose(change, plain.views(plain.master)[0].flatten(1) - before[0].flatten(1))
    for k in (1, 2, 3):  # bias, narrow matrix, bias
        torch.testing.assert_close(weights.views(weights.master)[k], plain.views(plain.master)[k])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_either_optimizer_resumes_to_the_bit(tmp_path, optimizer):
    class Wide(LineTask):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    whole = new_loop(tmp_path / "whole", task=Wide(), optimizer=optimizer)
    for _ in range(8):
        whole.advance()
    first = new_loop(tmp_path / "parts", task=Wide(), optimizer=optimizer)
    for _ in range(3):
        first.advance()
    first.save()
    second = new_loop(tmp_path / "parts", task=Wide(), optimizer=optimizer)
    second.resume()
    for _ in range(5):
        second.advance()
    assert torch.equal(whole.weights.master, second.weights.master)


def test_a_checkpoint_of_another_optimizer_and_an_unknown_one_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'lion' is not one of adamw, muon"):
        new_loop(tmp_path, optimizer="lion")

    def task():
        line = LineTask()
        line.model = nn.Linear(32, 32)
        return line

    new_loop(tmp_path, task=task()).save()
    with pytest.raises(UsageError, match="another optimizer"):
        new_loop(tmp_path, task=task(), optimizer="muon").resume()
