"""The settings of samplers: each with one meaning, whichever sampler takes it, and the values it may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffgen.errors import UsageError, unknown


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a setting means, and what it may be.

    Attributes:
        default: where the sampler's own function says none.
        low, high: the range of a number; None is without end.
        words: the choices, where it is a word.
    """

    says: str
    default: Any = None
    low: float | None = 0
    high: float | None = None
    words: tuple[str, ...] = ()


SETTINGS: dict[str, Setting] = {
    "eta": Setting(says="fresh noise a step: 0 none, 1 as much as the reverse SDE or DDPM"),
    "s_noise": Setting(says="factor on fresh noise", default=1.0),
    "s_churn": Setting(says="EDM's churn: noise added before each step, in total", default=0.0),
    "s_tmin": Setting(says="lowest sigma / alpha that is churned", default=0.0),
    "s_tmax": Setting(says="highest sigma / alpha that is churned; 0 is without end", default=0.0),
    "order": Setting(says="of the formula, once enough steps are known", low=1),
    "corrector_order": Setting(says="of the corrector; 0 is none", high=4),
    "variant": Setting(says="which published form of the formula"),
    "warm_up": Setting(
        says="until enough steps are known: grow from order 1, or correct as heun does", default="grow",
        words=("grow", "heun")),
    "finish": Setting(
        says="the order in the last steps: falls to 1 (lower), stays (full), falls below 15 steps (auto)",
        words=("auto", "lower", "full")),
    "gamma": Setting(says="share of a step that goes below the next time and comes back as noise", high=1),
    "eta_start": Setting(says="where noise begins to enter, as a share of the training time passed", high=1),
    "eta_stop": Setting(says="where it ceases to", high=1),
    "restarts": Setting(says="how often the middle is walked again"),
    "restart_steps": Setting(says="steps of each time", low=1, high=1000),
    "restart_min": Setting(says="sigma / alpha where a restart begins", low=1e-6),
    "restart_max": Setting(says="sigma / alpha up to which it goes", low=1e-6),
}  # fmt: skip


def check(sampler: str, accepted: Sequence[str], variants: Sequence[str], most: int, given: Mapping[str, Any]) -> None:
    """Refuses what `sampler` does not take.

    Args:
        accepted: the settings it takes.
        variants: what its `variant` may be.
        most: its highest order.

    Raises:
        UsageError: a setting is unknown, of another kind, or out of range.
    """
    for name, value in given.items():
        if name not in accepted:
            if not accepted:
                raise UsageError(f"sampler {sampler!r} takes no settings; got {name!r}")
            raise UsageError(str(unknown("setting", name, accepted)).replace(";", f" of sampler {sampler!r};", 1))
        setting = SETTINGS[name]
        words = variants if name == "variant" else setting.words
        if words:
            if value not in words:
                raise UsageError(f"{name} of sampler {sampler!r} must be {_either(words)}; got {value!r}")
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(f"{name} of sampler {sampler!r} must be a number; got {value!r}")
        high = most if name == "order" else setting.high
        whole = name in _WHOLE and float(value) != int(value)
        if whole or (setting.low is not None and value < setting.low) or (high is not None and value > high):
            kind = "a whole number " if name in _WHOLE else ""
            reach = f"{setting.low:g} to {high:g}" if high is not None else f"at least {setting.low:g}"
            raise UsageError(f"{name} of sampler {sampler!r} must be {kind}{reach}; got {value!r}")


_WHOLE = {"order", "corrector_order", "restarts", "restart_steps"}


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
