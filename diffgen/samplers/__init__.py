"""How to take a step from one noise level to the next. One small function each, and one table.

Every sampler is `(denoise, x, step, history, noise, **settings) -> x'`. `denoise(x, step)` gives the clean
estimate x0, and the step gives (alpha, sigma) at both ends, so one body serves variance-preserving, EDM and
flow paths. All are finite where alpha or sigma is 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from diffgen.contracts import Latents, Sampler
from diffgen.errors import unknown
from diffgen.samplers import adams, multistep, restart, sa_solver, single, unipc
from diffgen.samplers.around import churned, warmed
from diffgen.samplers.settings import SETTINGS, check


@dataclass(frozen=True, kw_only=True)
class SamplerInfo:
    """A row of the table that `diffgen samplers` prints.

    Attributes:
        order: of convergence on smooth problems at the default settings and with a full history, which
            `benchmarks/convergence.py` measures; for stochastic samplers of their deterministic part.
        weak: of a stochastic sampler: the order in which mean and covariance converge; 0 where they do not, because
            the sampler is made for models that jump to the end.
        even: the order holds where the steps are even in the level.
        evaluations: of the network, a step.
        noise: what a stochastic sampler draws: "fresh" noise at each step, or the increments of one "brownian"
            path, which does not depend on the number of steps; None is deterministic.
        settings: the names `make` accepts.
        variants: what the setting `variant` may be.
        most: the highest `order`.
    """

    function: Callable[..., Latents]
    label: str
    order: int
    weak: int = 0
    even: bool = False
    evaluations: int
    noise: Literal["fresh", "brownian"] | None = None
    settings: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    most: int = 1
    good_for: str = ""

    @property
    def stochastic(self) -> bool:
        """Whether fresh noise enters on the way, at the default settings."""
        return self.noise is not None


_SDE = ("eta", "s_noise")
_CHURN = ("s_churn", "s_tmin", "s_tmax", "s_noise")
_ADAMS = ("order", "warm_up", "finish")
_TYPES = ("midpoint", "heun")
SAMPLERS: dict[str, SamplerInfo] = {
    "euler": SamplerInfo(
        function=single.euler, label="Euler", order=1, evaluations=1, settings=_CHURN,
        good_for="a plain reference; flow models"),
    "euler_ancestral": SamplerInfo(
        function=single.euler_ancestral, label="Euler a", order=1, weak=1, evaluations=1, noise="fresh", settings=_SDE,
        good_for="variety; soft detail"),
    "heun": SamplerInfo(
        function=single.heun, label="Heun", order=2, evaluations=2, settings=_CHURN, good_for="accuracy a step"),
    "dpm_2": SamplerInfo(
        function=single.dpm_2, label="DPM2", order=2, evaluations=2, settings=_CHURN, good_for="accuracy a step"),
    "dpm_2_ancestral": SamplerInfo(
        function=single.dpm_2_ancestral, label="DPM2 a", order=2, weak=2, evaluations=2, noise="fresh", settings=_SDE,
        good_for="variety at few steps"),
    "dpmpp_2s": SamplerInfo(
        function=multistep.dpmpp_2s, label="DPM++ 2S", order=2, evaluations=1, settings=("order", "variant"),
        variants=_TYPES, most=3, good_for="few steps; pairs of steps"),
    "dpmpp_2s_ancestral": SamplerInfo(
        function=single.dpmpp_2s_ancestral, label="DPM++ 2S a", order=2, weak=2, evaluations=2, noise="fresh",
        settings=_SDE, good_for="variety at few steps"),
    "dpmpp_sde": SamplerInfo(
        function=single.dpmpp_sde, label="DPM++ SDE", order=2, weak=2, evaluations=2, noise="brownian", settings=_SDE,
        good_for="rich detail at 10 to 20 steps"),
    "dpmpp_2m": SamplerInfo(
        function=multistep.dpmpp_2m, label="DPM++ 2M", order=2, evaluations=1,
        settings=("variant", "warm_up", "finish"), variants=_TYPES, good_for="most models at 20 to 30 steps"),
    "dpmpp_2m_sde": SamplerInfo(
        function=multistep.dpmpp_2m_sde, label="DPM++ 2M SDE", order=2, weak=2, evaluations=1, noise="brownian",
        settings=(*_SDE, "variant", "finish"), variants=_TYPES, good_for="rich detail at 30 steps and more"),
    "dpmpp_3m_sde": SamplerInfo(
        function=multistep.dpmpp_3m_sde, label="DPM++ 3M SDE", order=2, weak=2, evaluations=1, noise="brownian",
        settings=(*_SDE, "variant", "finish"), variants=("published", "exact"),
        good_for="rich detail at 50 steps and more"),
    "unipc": SamplerInfo(
        function=unipc.unipc, label="UniPC", order=3, evaluations=1,
        settings=("order", "variant", "warm_up", "finish"), variants=("bh1", "bh2"), most=3, good_for="few steps"),
    "sa_solver": SamplerInfo(
        function=sa_solver.sa_solver, label="SA-Solver", order=4, weak=2, evaluations=1, noise="brownian",
        settings=(*_SDE, "order", "corrector_order", "eta_start", "eta_stop", "variant", "finish"),
        variants=("exact", "simple"), most=4, good_for="rich detail at 20 steps and more"),
    "deis": SamplerInfo(
        function=adams.deis, label="DEIS", order=3, evaluations=1, settings=_ADAMS, most=4,
        good_for="few steps"),
    "ipndm": SamplerInfo(
        function=adams.ipndm, label="IPNDM", order=4, even=True, evaluations=1, settings=_ADAMS, most=4,
        good_for="few steps on even schedules, whose order it needs"),
    "lms": SamplerInfo(
        function=adams.lms, label="LMS", order=4, evaluations=1, settings=_ADAMS, most=4,
        good_for="older results; many steps"),
    "res_multistep": SamplerInfo(
        function=multistep.res_multistep, label="RES multistep", order=2, evaluations=1,
        settings=(*_SDE, "warm_up", "finish"), good_for="few steps"),
    "er_sde": SamplerInfo(
        function=multistep.er_sde, label="ER SDE", order=3, weak=2, evaluations=1, noise="brownian",
        settings=("s_noise", "order"), most=3, good_for="rich detail at few steps"),
    "seeds_2": SamplerInfo(
        function=single.seeds_2, label="SEEDS 2", order=2, weak=2, evaluations=2, noise="brownian", settings=_SDE,
        good_for="the reverse SDE with care"),
    "restart": SamplerInfo(
        function=restart.restart, label="Restart", order=2, weak=2, evaluations=2, noise="fresh",
        settings=("restarts", "restart_steps", "restart_min", "restart_max", "s_noise"),
        good_for="quality at many evaluations: the middle of the way is walked again"),
    "ddim": SamplerInfo(
        function=single.ddim, label="DDIM", order=1, evaluations=1, settings=("eta",),
        good_for="the published results of older models"),
    "ddpm": SamplerInfo(
        function=single.ddpm, label="DDPM", order=1, weak=1, evaluations=1, noise="fresh",
        good_for="many hundred steps"),
    "plms": SamplerInfo(
        function=adams.plms, label="PLMS", order=4, even=True, evaluations=1,
        good_for="the published results of SD 1"),
    "lcm": SamplerInfo(
        function=single.lcm, label="LCM", order=1, evaluations=1, noise="fresh",
        good_for="consistency-distilled models at 4 to 8 steps"),
    "tcd": SamplerInfo(
        function=single.tcd, label="TCD", order=1, evaluations=1, noise="fresh", settings=("gamma",),
        good_for="trajectory-distilled models at 4 to 8 steps"),
}  # fmt: skip


def defaults(name: str) -> dict[str, Any]:
    """The settings of sampler `name` with what each is when nothing is said."""
    info = SAMPLERS[name]
    own = inspect.signature(info.function).parameters
    return {key: own[key].default if key in own else SETTINGS[key].default for key in info.settings}


def make(name: str, **settings: Any) -> Sampler:
    """The sampler of that name with its settings bound.

    Raises:
        UsageError: the name or a setting is unknown, or a value out of range; the message lists the accepted ones.
    """
    info = SAMPLERS.get(name)
    if info is None:
        raise unknown("sampler", name, SAMPLERS)
    check(name, info.settings, info.variants, info.most, settings)
    whole = {key: int(value) if key in ("order", "corrector_order") else value for key, value in settings.items()}
    own = inspect.signature(info.function).parameters
    sampler: Sampler = partial(info.function, **{key: value for key, value in whole.items() if key in own})
    if whole.get("warm_up") == "heun":
        sampler = warmed(sampler, whole.get("order", own["order"].default if "order" in own else 2) - 1)
    churn = {key: value for key, value in whole.items() if key in _CHURN and key not in own}
    return churned(sampler, **churn) if churn.get("s_churn") else sampler
