"""The options that say what a model is made of: one group, shared by every command that loads a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from diffgen.app.groups import takes

PANEL = "The model's parts"


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=PANEL, help=help, **more)


def complete_kind(incomplete: str) -> list[str]:
    """What the shell offers after --kind."""
    from diffgen.checkpoints.blueprint import carried

    return [name for name in carried() if name.startswith(incomplete)]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What `diffgen.load` is told besides the model, its dtype and its device. The fields are its arguments."""

    vae: Annotated[
        Path | None, _option("--vae", metavar="PATH", help="An autoencoder in place of the model's own.")
    ] = None
    text_encoder: Annotated[
        list[Path] | None,
        _option("--text-encoder", metavar="PATH", help="A text encoder in place of the model's own; repeatable."),
    ] = None
    image_encoder: Annotated[
        Path | None, _option("--image-encoder", metavar="PATH", help="The image encoder, such as CLIP-H for Wan 2.1.")
    ] = None
    denoiser_2: Annotated[
        Path | None, _option("--denoiser-2", metavar="FILE", help="The second expert, for low noise (Wan 2.2 A14B).")
    ] = None
    tokenizer: Annotated[
        Path | None,
        _option("--tokenizer", metavar="PATH", help="A folder, tokenizer.json or spiece.model, where a file has none."),
    ] = None
    config: Annotated[
        Path | None,
        _option("--config", metavar="DIR", help="A diffusers folder whose configurations a file's weights fit."),
    ] = None
    kind: Annotated[
        str | None,
        _option("--kind", help="Which model a file is, where its weights alone do not tell, such as flux-kontext.",
                autocompletion=complete_kind),
    ] = None  # fmt: skip
    prediction: Annotated[
        str | None, _option("--prediction", help="epsilon or v_prediction, where a file does not say.")
    ] = None
    allow_pickle: Annotated[
        bool, _option("--allow-pickle", help="Read .ckpt, .pt and .bin files too; no code in them is run.")
    ] = False
    download: Annotated[
        bool, _option("--download", help="Fetch a model named owner/name from the hub; afterwards it is here.")
    ] = False

    def options(self) -> dict[str, Any]:
        """The arguments for `diffgen.load`, without those that say nothing."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value not in (None, False, [])}

    def check(self, model: str | None) -> None:
        """Refuses what is not there, before anything heavy is imported.

        Raises:
            CheckpointError: there is nothing at a path.
            UsageError: the kind or the prediction is unknown.
        """
        from diffgen.checkpoints.blueprint import carried
        from diffgen.checkpoints.load import find, prediction_name
        from diffgen.errors import CheckpointError, unknown

        if not self.download:
            find(model)
        paths = {name: value for name, value in self.options().items() if isinstance(value, Path)}
        for name, path in (*paths.items(), *(("text_encoder", one) for one in self.text_encoder or ())):
            if not path.expanduser().exists():
                raise CheckpointError(f"there is nothing at {path}, given as --{name.replace('_', '-')}")
        if self.kind is not None and self.kind not in carried():
            raise unknown("kind of model", self.kind, carried())
        prediction_name(self.prediction)


def takes_loading(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with an option for each field of `Loading` in place of its parameter `loading`."""
    return takes("loading", Loading)(command)
