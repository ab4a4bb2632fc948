"""`diffgen replay`: a picture or a clip again, from the recipe inside it, and whether it is the same to the bit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgen.app import adapters, outputs, values
from diffgen.app.display import Display, new_display, note
from diffgen.app.drawing import Report, draw
from diffgen.app.filming import film_again
from diffgen.app.loading import Loading, takes_loading
from diffgen.app.verdict import Verdict, compare, tell
from diffgen.errors import UsageError
from diffgen.media.files import readable_name
from diffgen.recipe import Recipe, differences, installed_versions

if TYPE_CHECKING:
    from diffgen.checkpoints import Model

File = Annotated[Path, typer.Argument(metavar="FILE", help="A picture or a clip that diffgen made.")]
First = Annotated[Path | None, typer.Option("--from", metavar="IMAGE", help="The picture that a clip began with.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare with the file; 1 where they differ.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="'box', a weight file or a diffusers folder; default: the one in the recipe."),
]
Output = Annotated[str | None, typer.Option("--output", "-o", metavar="PATH", help="A picture file or a folder.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the file.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON object a line instead of text.")]
Preview = Annotated[bool | None, typer.Option("--preview/--no-preview", help="Show the picture forming.")]


@takes_loading
def replay(
    file: File, verify: Verify = False, model: ModelName = None, output: Output = None, force: Force = False,
    lora_dir: adapters.LoraDir = None, from_: First = None, json: Json = False, preview: Preview = None,
    *, loading: Loading,
) -> None:  # fmt: skip
    """Draw a picture or a clip again from its own recipe.

    With --verify the new picture is compared with the file, and saved only
    if -o is given. Where they differ it exits with 1 and says what is
    otherwise here: the model, a version, the device, the threads. What took
    the place of the model's own parts is loaded again from where it was.
    Of a clip the frames are compared by the hash that its recipe holds, so
    that it does not matter what the codec lost.

    Examples:
      diffgen replay apple.png --verify
      diffgen replay apple.png -o again.png
      diffgen replay apple.png --model models/finer -o finer.png
      diffgen replay castle.png --vae moved/vae.safetensors --lora-dir loras/
      diffgen replay wave.mp4 --verify --from hand.png
    """
    recipe = recipe_in(file)
    where = model or model_of(recipe)
    parts = parts_of(recipe, where, loading)
    target = None
    if output is not None or not verify:
        plan = outputs.plan if recipe.frames is None else outputs.plan_clips
        target = plan(output, [readable_name(recipe.prompt or "clip", recipe.seed)], force=force)
    report = Report(as_json=json)
    with target.ready() if target else nullcontext(), new_display(1, preview) as screen:
        loaded = load_for(recipe, where, parts)
        report.remark(loaded.notes)
        moved = {"folders": lora_dir or (), "allow_pickle": loading.allow_pickle}
        if recipe.frames is not None:
            verdict = film_again(loaded, recipe, from_, target, report, screen, moved)
        else:
            verdict = _draw_again(loaded, recipe, file, target, report, screen, moved, verify=verify)
    otherwise = differences(recipe, here(recipe, loaded))
    if verify and verdict is None:
        raise UsageError(f"{file} holds no hash of its frames, so they cannot be compared")
    if verdict is not None and verify:
        tell(file, verdict, otherwise, json)
    else:
        report.remark(otherwise)
    report.close()


def _draw_again(
    model: Model, recipe: Recipe, file: Path, target: outputs.Outputs | None, report: Report, screen: Display,
    moved: Mapping[str, Any], *, verify: bool,
) -> Verdict | None:  # fmt: skip
    """Draws a picture again; how it compares, where that is asked."""
    from diffgen.pipelines import replay as again

    wanted = complete(recipe, model, file)
    screen.begin(model.family, [])
    picture = again(model, wanted, **moved)
    if target is not None:
        draw([replace(picture, index=0)], target, report, screen)
    return compare(file, picture.pixels) if verify else None


def recipe_in(file: Path) -> Recipe:
    """The recipe in a picture, whichever tool wrote it.

    Raises:
        UsageError: the file has none, or one that cannot be drawn.
    """
    from diffgen.foreign import describe

    found = describe(file)
    recipe = found.recipe
    if recipe is None:
        raise UsageError(f"{file} does not say how it was made, so it cannot be drawn again")
    if recipe.seed is None or (recipe.frames is None and not recipe.prompt.strip()):
        missing = "seed" if recipe.seed is None else "prompt"
        raise UsageError(f"{file} holds no {missing}, so it cannot be drawn again")
    if recipe.task not in _tasks(recipe):
        raise UsageError(f"{file} was made by {recipe.task}; replay draws what was made by {', '.join(_tasks(recipe))}")
    if found.tool != "diffgen":
        note(f"{found.tool} made this picture; another program's noise and arithmetic give another picture")
    values.check_settings(recipe.settings)
    return recipe


def _tasks(recipe: Recipe) -> tuple[str, ...]:
    """The tasks that can be done again: for clips, or for pictures."""
    if recipe.frames is None:
        return ("text_to_image",)
    from diffgen.pipelines.refilm import TASKS

    return TASKS


def model_of(recipe: Recipe) -> str:
    """Where the recipe's model is: the box, or the folder or file below ./models that has its name.

    Raises:
        UsageError: it is not there.
    """
    from diffgen.app.models import listing
    from diffgen.checkpoints.load import BOX

    if recipe.model in (None, BOX):
        return BOX
    for found in listing():
        if found.name == recipe.model:
            return found.model
    raise UsageError(f"the picture was made with the model {recipe.model!r}; say where it is with --model")


def parts_of(recipe: Recipe, where: str, loading: Loading) -> dict[str, Any]:
    """What `diffgen.load` is to be told besides the model: the recipe's own parts, over which the options count.

    Raises:
        CheckpointError, UsageError: the model or a part is missing, or a part is another file than then.
    """
    from diffgen.checkpoints.load import find
    from diffgen.checkpoints.replaced import PARTS, recall

    loading.check(where)
    given, recorded = loading.options(), recipe.settings.get(PARTS)
    if not recorded:
        return given
    if not loading.download and find(where)[0] != recipe.model:
        note(f"the parts of {recipe.model} ({', '.join(recorded)}) are not used with {where}")
        return given
    return recall(recorded, given)


def load_for(recipe: Recipe, where: str, parts: Mapping[str, Any]) -> Model:
    """The model in the recipe's dtype, on its device where this machine has it, with its number of threads."""
    from diffgen.app.startup import load_model

    # Where the device is missing here, that is told with the other differences.
    loaded = load_model(where, dtype=recipe.dtype or "auto", device=recipe.device or "auto", anywhere=True, **parts)
    if recipe.threads and loaded.family.device.type == "cpu" and recipe.threads <= (os.cpu_count() or 1):
        import torch

        torch.set_num_threads(recipe.threads)
    return loaded


def complete(recipe: Recipe, model: Model, file: Path) -> Recipe:
    """The recipe with what another tool left out: its size is the file's own."""
    from diffgen.media import open_image
    from diffgen.pipelines.extent import check_size

    if recipe.width is None or recipe.height is None:
        with open_image(file) as image:
            recipe = replace(recipe, width=image.width, height=image.height)
    check_size(model.family, recipe.width or 0, recipe.height or 0)
    return replace(recipe, steps=recipe.steps or model.family.defaults.steps)


def here(recipe: Recipe, model: Model) -> Recipe:
    """The recipe as this machine carries it out. What the recipe does not record is left unknown."""
    import torch

    family = model.family
    now: dict[str, Any] = {
        "model_hash": model.hash, "dtype": str(family.dtype).removeprefix("torch."),
        "device": family.device.type, "threads": torch.get_num_threads(),
    }  # fmt: skip
    versions = installed_versions()
    return replace(
        recipe,
        versions={name: versions.get(name, seen) for name, seen in recipe.versions.items()},
        **{name: value for name, value in now.items() if getattr(recipe, name) is not None},
    )
