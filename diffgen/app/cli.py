"""The command line `diffgen`: one table of commands, and one place where errors end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from diffgen import __version__
from diffgen.app import errors
from diffgen.app.lazy import Lazy, lazy_group

COMMANDS = {
    "image": Lazy(module="diffgen.app.image", attribute="image", help="Draw pictures from prompts."),
    "video": Lazy(module="diffgen.app.video", attribute="video", help="Draw clips from a prompt or a picture."),
    "replay": Lazy(module="diffgen.app.replay", attribute="replay", help="Draw a picture again from its own recipe."),
    "show": Lazy(module="diffgen.app.show", attribute="show", help="Say how a picture was made."),
    "models": Lazy(module="diffgen.app.models", attribute="models", help="List the models on this machine."),
    "convert": Lazy(
        module="diffgen.app.convert", attribute="convert", help="Convert a model between folder, file and dtypes."),
    "inspect": Lazy(module="diffgen.app.inspect", attribute="inspect", help="Say what a weight file holds."),
    "doctor": Lazy(
        module="diffgen.app.doctor", attribute="doctor", help="Say what this machine is, and which kernels it gets."),
    "samplers": Lazy(
        module="diffgen.app.samplers", attribute="samplers", help="List the samplers, schedules and their settings."),
    "train": Lazy(module="diffgen.app.train", attribute="app", help="Train the parts of a small model."),
    "evaluate": Lazy(
        module="diffgen.app.evaluate", attribute="app", help="Measure how well a model draws, or a clip holds."),
}  # fmt: skip

app = typer.Typer(cls=lazy_group(COMMANDS), name="diffgen", rich_markup_mode="rich", no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"diffgen {__version__}")
        raise typer.Exit()


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def root(version: Version = False) -> None:
    """Draw with latent diffusion, offline, and keep in every picture how it was made.

    Examples:
      diffgen image "3d emoji of a red apple"
      diffgen image "flat emoji of a cat" --count 4 --seed 7 -o cats.png
      diffgen show cats-1.png
      diffgen replay cats-1.png --verify
      diffgen image --help
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit code; whatever goes wrong has been told by then."""
    command = typer.main.get_command(app)
    try:
        result = command.main(arguments, prog_name="diffgen", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        if isinstance(error, BrokenPipeError):
            _discard_output()
        return errors.report(error)
    if result == errors.INTERRUPTED:
        errors.say("stopped")  # Typer turns a Ctrl-C that no command has caught into this code
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """The entry point `diffgen`."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(run())


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # As an exception, so that files being written are taken back on the way out.
    raise SystemExit(128 + number)


def _discard_output() -> None:
    # The reader went away (`diffgen ... | head`); Python would complain once more while it shuts down.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
