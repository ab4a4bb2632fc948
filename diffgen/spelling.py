"""The names people type: A1111's labels, ComfyUI's identifiers and diffusers' classes, fused or apart, any case.

Two ways to say one thing give the same (sampler, schedule), so they give the same recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from diffgen.errors import UsageError
from diffgen.samplers import SAMPLERS
from diffgen.schedules import SCHEDULES

# Other spellings of our samplers, beside their names and labels. A tuple also fixes settings.
_SAMPLERS: dict[str, str | tuple[str, dict[str, Any]]] = {
    "euler a": "euler_ancestral", "k euler": "euler", "k euler a": "euler_ancestral",
    "euler ancestral rf": "euler_ancestral", "ltx euler ancestral rf": "euler_ancestral", "edm euler": "euler",
    "dpm2": "dpm_2", "kdpm2": "dpm_2", "dpm2 a": "dpm_2_ancestral", "dpm2 ancestral": "dpm_2_ancestral",
    "kdpm2 ancestral": "dpm_2_ancestral", "kdpm2 a": "dpm_2_ancestral",
    "dpm++ 2m": "dpmpp_2m", "dpm solver++ 2m": "dpmpp_2m", "dpm solver++": "dpmpp_2m",
    "dpm++ 2m sde": "dpmpp_2m_sde", "dpmpp 2m sde gpu": "dpmpp_2m_sde",
    "dpm++ 2m sde heun": ("dpmpp_2m_sde", {"variant": "heun"}),
    "dpmpp 2m sde heun gpu": ("dpmpp_2m_sde", {"variant": "heun"}), "dpm++ 3m": ("dpmpp_3m_sde", {"eta": 0.0}),
    "dpm++ 3m sde": "dpmpp_3m_sde", "dpmpp 3m sde gpu": "dpmpp_3m_sde",
    "dpm++ sde": "dpmpp_sde", "dpmpp sde gpu": "dpmpp_sde", "dpm solver sde": "dpmpp_sde",
    "dpm++ 2s a": "dpmpp_2s_ancestral", "dpm++ 2s ancestral": "dpmpp_2s_ancestral", "dpmpp 2s a": "dpmpp_2s_ancestral",
    "dpm solver singlestep": "dpmpp_2s",
    "dpm solver multistep": "dpmpp_2m", "edm dpm solver multistep": "dpmpp_2m",
    "uni pc": "unipc", "unipc multistep": "unipc", "uni pc bh2": "unipc", "uni pc bh1": ("unipc", {"variant": "bh1"}),
    "deis multistep": "deis", "pndm": "plms", "lms discrete": "lms", "heun discrete": "heun", "k heun": "heun",
    "euler discrete": "euler", "euler ancestral discrete": "euler_ancestral", "kdpm2 discrete": "dpm_2",
    "kdpm2 ancestral discrete": "dpm_2_ancestral", "flow match euler discrete": "euler",
    "flow match heun discrete": "heun", "flow match lcm": "lcm", "res": "res_multistep", "seeds2": "seeds_2",
    "res multistep ancestral": ("res_multistep", {"eta": 1.0}), "k euler ancestral": "euler_ancestral",
    "k dpm 2 ancestral": "dpm_2_ancestral", "k dpmpp 2s ancestral": "dpmpp_2s_ancestral", "kdpm 2": "dpm_2",
    "kdpm 2 a": "dpm_2_ancestral", "ddim v3": "ddim",
    "k lms": "lms", "k dpm 2": "dpm_2", "k dpm 2 a": "dpm_2_ancestral", "k dpmpp 2m": "dpmpp_2m",
    "k dpmpp sde": "dpmpp_sde", "k dpmpp 2s a": "dpmpp_2s_ancestral", "k dpmpp 2m sde": "dpmpp_2m_sde",
}  # fmt: skip
_SCHEDULES: dict[str, str | tuple[str, dict[str, Any]]] = {
    "sgm uniform": "sgm_uniform", "k karras": "karras", "uniform": "normal", "exp": "exponential", "native": "normal",
    "align your steps": "ays", "ays sd15": "ays", "ddim": "ddim_uniform", "flow match": "even",
    "k": "karras", "beta57": ("beta", {"alpha": 0.5, "beta": 0.7}), "align your steps sdxl": "ays_sdxl",
}  # fmt: skip
# What "Automatic" means for a sampler in the web UI; for the others it is the plain spacing.
AUTOMATIC: dict[str, str] = {
    "dpmpp_2m": "karras", "dpmpp_sde": "karras", "dpmpp_2s_ancestral": "karras", "dpm_2": "karras",
    "dpm_2_ancestral": "karras", "dpmpp_2m_sde": "exponential", "dpmpp_3m_sde": "exponential",
    "restart": "karras",
}  # fmt: skip


def _key(name: str) -> str:
    """What is compared: letters and digits alone, "++" as "pp", without diffusers' class ending."""
    plain = re.sub(r"(?i)scheduler$", "", name.strip()).lower().replace("++", "pp")
    return re.sub(r"[^a-z0-9]", "", plain)


def _table(labels: Mapping[str, str], others: Mapping[str, Any]) -> dict[str, Any]:
    """Compared form -> meaning. `others` wins: "Uniform" as a person types it is A1111's label for `normal`."""
    own = {_key(name): name for name in labels} | {_key(label): name for name, label in labels.items()}
    return own | {_key(spelling): meant for spelling, meant in others.items()}


def _tables() -> tuple[dict[str, Any], dict[str, Any]]:
    samplers = _table({name: info.label for name, info in SAMPLERS.items()}, _SAMPLERS)
    return samplers, _table({name: info.label for name, info in SCHEDULES.items()}, _SCHEDULES)


def canonical(sampler: str | None, schedule: str | None = None) -> tuple[str | None, str | None, dict[str, Any]]:
    """(sampler, schedule, settings) in our names; None stays None.

    A schedule fused to the sampler ("DPM++ 2M Karras") counts unless another one is given. "Automatic" is A1111's
    choice for the sampler.

    Raises:
        UsageError: a name is unknown; the message lists the nearest.

    >>> canonical("DPM++ 2M Karras")
    ('dpmpp_2m', 'karras', {})
    """
    samplers, schedules = _tables()
    found, fused, settings = (None, None, {}) if sampler is None else _sampler(sampler, samplers, schedules)
    if schedule is None:
        name, fixed = _meaning(fused) if fused else (None, {})
        return found, name, settings | fixed
    if _key(schedule) == "automatic":
        return found, AUTOMATIC.get(found or "", "normal"), settings
    if schedule in SCHEDULES:
        return found, schedule, settings
    if _key(schedule) not in schedules:
        raise _unknown("schedule", schedule, schedules, SCHEDULES)
    name, fixed = _meaning(schedules[_key(schedule)])
    return found, name, settings | fixed


def _meaning(meant: str | tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return (meant, {}) if isinstance(meant, str) else (meant[0], dict(meant[1]))


def _sampler(
    name: str, samplers: Mapping[str, Any], schedules: Mapping[str, Any]
) -> tuple[str, str | tuple[str, dict[str, Any]] | None, dict[str, Any]]:
    key = _key(name)
    endings = ["", *sorted(schedules, key=len, reverse=True)]
    for ending in endings:
        front = key.removesuffix(ending)
        if front in samplers and (not ending or front != key):
            meant, fixed = _meaning(samplers[front])
            return meant, schedules.get(ending), fixed
    raise _unknown("sampler", name, samplers, SAMPLERS)


def _unknown(kind: str, name: str, spellings: Mapping[str, Any], accepted: Mapping[str, Any]) -> UsageError:
    """The three of ours whose spellings, in any tool, are nearest to `name`."""
    near = sorted(spellings, key=lambda one: SequenceMatcher(None, _key(name), one).ratio(), reverse=True)
    names = list(dict.fromkeys(_meaning(spellings[one])[0] for one in near))[:3]
    return UsageError(
        f"unknown {kind} {name!r}; did you mean {', '.join(names[:2])} or {names[2]}? "
        f"accepted: {', '.join(sorted(accepted))}"
    )
