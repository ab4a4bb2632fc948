"""The one training loop. What differs between methods is a `Task`; the loop knows only its loss.

A step's randomness comes from (seed, step, process) alone. A resumed run therefore repeats what an unbroken
one would have done, to the bit, and no generator state has to be saved.
"""

from __future__ import annotations

import json
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from diffgen.errors import NumericalError, UsageError
from diffgen.train.optimizers import Optimizer
from diffgen.train.weights import FlatWeights, average_decay

if TYPE_CHECKING:
    from accelerate import Accelerator
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast to learn.

    Args:
        steps: optimizer steps in all; the learning rate's plan refers to it.
        lr: peak learning rate.
        optimizer: see `diffgen.train.optimizers`.
        warmup: steps from 0 to `lr`.
        decay: last share of the steps over which the rate falls along a cosine to `final_lr` * lr.
        beta2, weight_decay, clip: AdamW's and the gradient's limit (2-norm).
        average: longest EMA decay.
        precision: "bf16" or "fp32", what the network computes with.
        save_minutes, sample_minutes: pause between checkpoints and between sample grids.
        keep: checkpoints kept.
        seed: of everything random.
    """

    steps: int
    lr: float = 7e-4
    optimizer: str = "adamw"
    warmup: int = 200
    decay: float = 0.5
    final_lr: float = 0.02
    beta2: float = 0.98
    weight_decay: float = 1e-2
    clip: float = 1.0
    average: float = 0.999
    precision: str = "bf16"
    save_minutes: float = 10.0
    sample_minutes: float = 10.0
    keep: int = 2
    seed: int = 0


class Task(Protocol):
    """What a training method gives to the loop."""

    model: nn.Module

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a batch and return its scalar losses; "loss" is the one that is minimised."""

    def sample(self, step: int) -> Image | None:
        """A picture to judge by, called with the averaged weights in place."""

    def export(self, folder: Path) -> None:
        """Write the averaged weights for use, called with them in place."""


def learning_rate(step: int, settings: LoopSettings) -> float:
    """Linear warm-up, constant, then a cosine over the last `decay` of the steps."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    start = settings.steps * (1 - settings.decay)
    if step <= start:
        return settings.lr
    done = min((step - start) / max(settings.steps - start, 1), 1.0)
    return settings.lr * (settings.final_lr + (1 - settings.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))


def step_generator(seed: int, step: int, process: int) -> torch.Generator:
    """The generator of one step in one process."""
    return torch.Generator().manual_seed(((seed * 1_000_003 + step) * 64 + process) % (1 << 62))


class Loop:
    """A run of a task in a folder.

    Args:
        task: see `Task`.
        settings: see `LoopSettings`.
        out: folder for checkpoints, samples, curves and the exported model.
        accelerator: how many processes there are and how they exchange gradients.
    """

    def __init__(self, task: Task, settings: LoopSettings, out: Path, accelerator: Accelerator) -> None:
        self.task, self.settings, self.out, self.accelerator = task, settings, Path(out), accelerator
        if settings.precision not in ("bf16", "fp32"):
            raise UsageError(f"precision {settings.precision!r} is not one of bf16, fp32")
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.weights = FlatWeights(task.model, dtype=dtype)
        self.optimizer = Optimizer(
            settings.optimizer,
            self.weights,
            lr=settings.lr,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
        )
        self.step = 0
        self.stopping = False
        self.main = accelerator.is_main_process

    def advance(self) -> dict[str, float]:
        """One optimizer step; returns this process's losses.

        Raises:
            NumericalError: the loss or the gradient is NaN or infinite. Nothing was changed by that step.
        """
        weights, settings = self.weights, self.settings
        weights.grad.zero_()
        losses = self.task.loss(self.step, step_generator(settings.seed, self.step, self.accelerator.process_index))
        losses["loss"].backward()
        if self.accelerator.num_processes > 1:
            weights.grad.copy_(self.accelerator.reduce(weights.grad, "mean"))
        gradient = weights.grad.float()
        norm = float(gradient.norm())
        if not math.isfinite(norm):
            raise NumericalError(
                f"the gradient is {norm} at step {self.step}; the last checkpoint is sound: resume it with a lower lr"
            )
        gradient.mul_(min(1.0, settings.clip / (norm + 1e-6)))
        rate = learning_rate(self.step, settings)
        self.optimizer.step(gradient, rate)
        weights.push()
        weights.average_in(average_decay(self.step, settings.average))
        self.step += 1
        return {**{name: float(value.detach()) for name, value in losses.items()}, "norm": norm, "lr": rate}

    def save(self) -> Path:
        """Write a checkpoint that `resume` continues exactly, and drop the oldest beyond `keep`."""
        folder = self.out / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{self.step:08d}.pt"
        state = {"step": self.step, "weights": self.weights.state(), "optimizer": self.optimizer.state_dict()}
        partial = path.with_suffix(".partial")  # a kill while writing must not leave a broken checkpoint behind
        torch.save(state, partial)
        partial.replace(path)
        for old in sorted(folder.glob("step-*.pt"))[: -self.settings.keep]:
            old.unlink()
        return path

    def resume(self) -> int:
        """Continue from the newest checkpoint in the folder; return its step.

        Raises:
            UsageError: there is none.
        """
        found = sorted((self.out / "checkpoints").glob("step-*.pt"))
        if not found:
            raise UsageError(f"nothing to resume: no checkpoint in {self.out / 'checkpoints'}")
        state = torch.load(found[-1], map_location="cpu", weights_only=True)
        self.weights.load(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        return self.step

    def show(self) -> None:
        """Write the task's sample picture and its export, made with the averaged weights."""
        with self.weights.averaged():
            picture = self.task.sample(self.step)
        with self.weights.averaged(torch.float32):
            self.task.export(self.out / "model")
        if picture is not None:
            (self.out / "samples").mkdir(exist_ok=True)
            picture.save(self.out / "samples" / f"{self.step:08d}.png")

    def run(self, *, minutes: float | None = None) -> int:
        """Train to the last step, until `minutes` have passed or until Ctrl-C or SIGTERM; save in each case.

        Returns the step reached. Curves go to `out`/curves for TensorBoard and `out`/log.jsonl.
        """
        from torch.utils.tensorboard import SummaryWriter

        curves: Any = SummaryWriter(str(self.out / "curves")) if self.main else None
        began = saved = shown = logged = time.monotonic()
        sums: dict[str, float] = {}
        count = 0
        # A job in the background is born deaf to Ctrl-C's signal, so both are set. The step under way is finished,
        # or what is saved would be neither before it nor after it.
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            while self.step < self.settings.steps and not self._over(began, minutes):
                for name, value in self.advance().items():
                    sums[name] = sums.get(name, 0.0) + value
                count += 1
                now = time.monotonic()
                if self.main and count == 50:
                    means = {name: value / count for name, value in sums.items()}
                    means["seconds_per_step"] = (now - logged) / count
                    self._log(curves, means)
                    sums, count, logged = {}, 0, now
                if self.main and now - saved > 60 * self.settings.save_minutes:
                    self.save()
                    saved = now
                if self.main and now - shown > 60 * self.settings.sample_minutes:
                    self.show()
                    shown = now
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.main:
            self.save()
            self.show()
            curves.close()
        return self.step

    def _stop(self, number: int, frame: object) -> None:
        print(f"stopping after step {self.step}, then saving", flush=True)
        self.stopping = True

    def _over(self, began: float, minutes: float | None) -> bool:
        """Whether time is up or a signal came, in any process, so that all stop at the same step."""
        late = minutes is not None and time.monotonic() - began > 60 * minutes
        over = torch.tensor([float(late or self.stopping)])
        if self.accelerator.num_processes > 1:
            if self.step % 10:
                return False
            over = self.accelerator.reduce(over, "sum")
        return bool(over.item())

    def _log(self, curves: Any, means: dict[str, float]) -> None:
        for name, value in means.items():
            curves.add_scalar(name, value, self.step)
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": self.step, **{k: round(v, 6) for k, v in means.items()}}) + "\n")
