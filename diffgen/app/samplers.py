"""`diffgen samplers`: the tables that the code itself uses, printed. Without importing torch."""

from __future__ import annotations

import json as encoder
from collections.abc import Collection
from typing import Annotated, Any

import typer

from diffgen.app import values
from diffgen.app.tables import print_fields, print_table
from diffgen.guidance import PUSHES
from diffgen.samplers import SAMPLERS, defaults
from diffgen.schedules import SCHEDULES

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


Fit = Annotated[str | None, typer.Option("--fit", metavar="MODEL", help="Fit the schedule 'optimal' to a model.")]


def samplers(json: Json = False, fit: Fit = None) -> None:
    """List the samplers, the schedules and their settings.

    A sampler is how a step is taken. A schedule is where on the way from
    noise to picture the steps are.

    Examples:
      diffgen samplers
      diffgen image "a fox" --sampler euler_ancestral --schedule karras --set eta=0.5 --set rho=5
      diffgen samplers --fit models/mine   then: diffgen image "a fox" --model models/mine --schedule optimal
    """
    if fit is not None:
        _fit(fit)
        return
    document = tables()
    if json:
        print(encoder.dumps(document, indent=2))
        return
    print_table(
        "Samplers", ("name", "shown as", "(order)", "(calls)", "(noise)", "settings", "good for"),
        [(row["name"], row["label"], str(row["order"]), str(row["evaluations"]), "yes" if row["stochastic"] else "",
          _shown(row["settings"]), row["good_for"]) for row in document["samplers"]],
    )  # fmt: skip
    shared = document["settings"]
    print_table(
        "Schedules", ("name", "shown as", "settings", "good for"),
        [(row["name"], row["label"], _shown(row["settings"], shared), row["good_for"])
         for row in document["schedules"]],
    )  # fmt: skip
    print_table(
        "Guidance methods, chosen with --set guidance_method=name", ("name", "shown as", "settings", "good for"),
        [(row["name"], row["label"], _shown(row["settings"]), row["good_for"]) for row in document["guidance"]],
    )  # fmt: skip
    print_fields([("for all", _shown(shared)), ("calls", "of the network, a step"),
                  ("settings", "are given with --set name=value")])  # fmt: skip


def _fit(name: str) -> None:
    # With torch, which the tables do without.
    from diffgen.checkpoints import load
    from diffgen.pipelines import fitted, fitting

    model = load(name)
    file = fitted.save(model, fitting.fit(model))
    print(f"fitted to {model.name}: {file}")


def tables() -> dict[str, Any]:
    """What `--json` prints: rows of samplers and schedules, and the settings that belong to neither."""
    spacing = values.schedule_settings()
    methods = values.method_settings()
    general = {key: value for key, value in values.guidance_settings().items() if key not in methods}
    shared = [key for key in spacing if all(key in info.settings for info in SCHEDULES.values())]
    return {
        "samplers": [
            {"name": name, "label": info.label, "order": info.order, "evaluations": info.evaluations,
             "stochastic": info.stochastic, "settings": defaults(name), "good_for": info.good_for}
            for name, info in SAMPLERS.items()
        ],
        "schedules": [
            {"name": name, "label": info.label, "settings": {key: spacing[key] for key in info.settings},
             "good_for": info.good_for}
            for name, info in SCHEDULES.items()
        ],
        "guidance": [
            {"name": name, "label": info.label, "good_for": info.good_for,
             "settings": {f"guidance_{key}": methods[f"guidance_{key}"] for key in info.settings}}
            for name, info in PUSHES.items()
        ],
        "settings": {**{key: spacing[key] for key in shared}, **general, "clip_skip": 1},
    }  # fmt: skip


def _shown(settings: dict[str, Any], without: Collection[str] = ()) -> str:
    shown = {name: default for name, default in settings.items() if name not in without}
    return " ".join(name if default in (None, ()) else f"{name}={default}" for name, default in shown.items())
