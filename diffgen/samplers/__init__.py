"""How to take a step from one noise level to the next. One small function each, and one table.

Every sampler is `(denoise, x, step, history, noise, **settings) -> x'`. `denoise(x, step)` gives the clean
estimate x0, and the step gives (alpha, sigma) at both ends, so one body serves variance-preserving, EDM and
flow paths. All are finite where alpha or sigma is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from diffgen.contracts import Latents, Sampler
from diffgen.errors import UsageError, unknown
from diffgen.samplers import multistep, single, unipc


@dataclass(frozen=True, kw_only=True)
class SamplerInfo:
    """A row of the table that `diffgen samplers` prints.

    Attributes:
        order: of convergence on smooth problems, the steps that start the history included, as
            `benchmarks/convergence.py` measures it; for stochastic samplers of their deterministic part.
        evaluations: of the network, a step.
        noise: what a stochastic sampler draws: "fresh" noise at each step, or the increments of one "brownian"
            path, which does not depend on the number of steps; None is deterministic.
        settings: the names `make` accepts.
    """

    function: Callable[..., Latents]
    label: str
    order: int
    evaluations: int
    noise: Literal["fresh", "brownian"] | None = None
    settings: tuple[str, ...] = ()
    good_for: str = ""

    @property
    def stochastic(self) -> bool:
        """Whether fresh noise enters on the way, at the default settings."""
        return self.noise is not None


_SDE = ("eta", "s_noise")
SAMPLERS: dict[str, SamplerInfo] = {
    "euler": SamplerInfo(
        function=single.euler, label="Euler", order=1, evaluations=1, good_for="a plain reference; flow models"),
    "euler_ancestral": SamplerInfo(
        function=single.euler_ancestral, label="Euler a", order=1, evaluations=1, noise="fresh", settings=_SDE,
        good_for="variety; soft detail"),
    "heun": SamplerInfo(function=single.heun, label="Heun", order=2, evaluations=2, good_for="accuracy a step"),
    "dpm_2": SamplerInfo(function=single.dpm_2, label="DPM2", order=2, evaluations=2, good_for="accuracy a step"),
    "dpm_2_ancestral": SamplerInfo(
        function=single.dpm_2_ancestral, label="DPM2 a", order=2, evaluations=2, noise="fresh", settings=_SDE,
        good_for="variety at few steps"),
    "dpmpp_2s_ancestral": SamplerInfo(
        function=single.dpmpp_2s_ancestral, label="DPM++ 2S a", order=2, evaluations=2, noise="fresh", settings=_SDE,
        good_for="variety at few steps"),
    "dpmpp_sde": SamplerInfo(
        function=single.dpmpp_sde, label="DPM++ SDE", order=2, evaluations=2, noise="brownian", settings=_SDE,
        good_for="rich detail at 10 to 20 steps"),
    "dpmpp_2m": SamplerInfo(
        function=multistep.dpmpp_2m, label="DPM++ 2M", order=2, evaluations=1,
        good_for="most models at 20 to 30 steps"),
    "dpmpp_2m_sde": SamplerInfo(
        function=multistep.dpmpp_2m_sde, label="DPM++ 2M SDE", order=2, evaluations=1, noise="brownian", settings=_SDE,
        good_for="rich detail at 30 steps and more"),
    "dpmpp_3m_sde": SamplerInfo(
        function=multistep.dpmpp_3m_sde, label="DPM++ 3M SDE", order=3, evaluations=1, noise="brownian", settings=_SDE,
        good_for="rich detail at 50 steps and more"),
    "unipc": SamplerInfo(
        function=unipc.unipc, label="UniPC", order=2, evaluations=1, settings=("order", "variant"),
        good_for="few steps"),
    "deis": SamplerInfo(
        function=multistep.deis, label="DEIS", order=2, evaluations=1, settings=("order",), good_for="few steps"),
    "ipndm": SamplerInfo(
        function=multistep.ipndm, label="IPNDM", order=1, evaluations=1, settings=("order",),
        good_for="few steps on even schedules, whose order it needs"),
    "lms": SamplerInfo(
        function=multistep.lms, label="LMS", order=2, evaluations=1, settings=("order",),
        good_for="older results; many steps"),
    "res_multistep": SamplerInfo(
        function=multistep.res_multistep, label="RES multistep", order=2, evaluations=1, good_for="few steps"),
    "er_sde": SamplerInfo(
        function=multistep.er_sde, label="ER SDE", order=3, evaluations=1, noise="brownian",
        settings=("s_noise", "order"), good_for="rich detail at few steps"),
    "seeds_2": SamplerInfo(
        function=single.seeds_2, label="SEEDS 2", order=2, evaluations=2, noise="brownian", settings=_SDE,
        good_for="the reverse SDE with care"),
    "ddim": SamplerInfo(
        function=single.ddim, label="DDIM", order=1, evaluations=1, settings=("eta",),
        good_for="the published results of older models"),
    "ddpm": SamplerInfo(
        function=single.ddpm, label="DDPM", order=1, evaluations=1, noise="fresh", good_for="many hundred steps"),
    "plms": SamplerInfo(
        function=multistep.plms, label="PLMS", order=2, evaluations=1, good_for="the published results of SD 1"),
    "lcm": SamplerInfo(
        function=single.lcm, label="LCM", order=1, evaluations=1, noise="fresh",
        good_for="consistency-distilled models at 4 to 8 steps"),
    "tcd": SamplerInfo(
        function=single.tcd, label="TCD", order=1, evaluations=1, noise="fresh", settings=("gamma",),
        good_for="trajectory-distilled models at 4 to 8 steps"),
}  # fmt: skip


def make(name: str, **settings: Any) -> Sampler:
    """The sampler of that name with its settings bound.

    Raises:
        UsageError: the name or a setting is unknown; the message lists the accepted ones.
    """
    info = SAMPLERS.get(name)
    if info is None:
        raise unknown("sampler", name, SAMPLERS)
    strange = sorted(set(settings) - set(info.settings))
    if strange:
        accepted = ", ".join(info.settings) or "none"
        raise UsageError(f"sampler {name!r} has no setting {strange[0]!r}; accepted: {accepted}")
    return partial(info.function, **settings)
