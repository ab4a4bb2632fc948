"""`diffgen image`: prompts in, pictures out. Everything that can be checked is checked before torch loads."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffgen.app import adapters, outputs, values
from diffgen.app.display import new_display
from diffgen.app.drawing import Report, draw
from diffgen.app.loading import Loading, takes_loading
from diffgen.errors import UsageError
from diffgen.media.files import readable_name

if TYPE_CHECKING:
    from diffgen.checkpoints import Model
    from diffgen.recipe import Recipe

MOST_SEED = 2**63 - 1  # of torch's generators
LOOK, HOW, FILES, RUN = "What to draw", "How to draw", "Files", "The run"


def _option(*names: str, panel: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


def complete_sampler(incomplete: str) -> list[str]:
    """What the shell offers after --sampler."""
    from diffgen.samplers import SAMPLERS

    return [name for name in SAMPLERS if name.startswith(incomplete)]


def complete_schedule(incomplete: str) -> list[str]:
    """What the shell offers after --schedule."""
    from diffgen.schedules import SCHEDULES

    return [name for name in SCHEDULES if name.startswith(incomplete)]


Prompts = Annotated[list[str], typer.Argument(metavar="PROMPT", help="What to draw; several give several pictures.")]
Negative = Annotated[str, _option("--negative", panel=LOOK, help="What to keep out of the picture.")]
Size = Annotated[str | None, _option("--size", panel=LOOK, metavar="WxH", help="In pixels, such as 512x768.")]
Seed = Annotated[int | None, _option("--seed", panel=LOOK, help="Of the first picture; the next has seed + 1.")]
Count = Annotated[int, _option("--count", "-n", panel=LOOK, help="Pictures a prompt.")]
Wildcards = Annotated[
    list[Path] | None, _option("--wildcards", panel=LOOK, metavar="DIR", help="Folder of the files behind __name__.")
]
Steps = Annotated[int | None, _option("--steps", panel=HOW, help="More are slower and finer.")]
Guidance = Annotated[
    float | None, _option("--guidance", panel=HOW, help="How closely to follow the prompt; 1 is not at all.")
]
SamplerName = Annotated[
    str | None, _option("--sampler", panel=HOW, help="See: diffgen samplers.", autocompletion=complete_sampler)
]
ScheduleName = Annotated[
    str | None, _option("--schedule", panel=HOW, help="See: diffgen samplers.", autocompletion=complete_schedule)
]
Settings = Annotated[
    list[str] | None,
    _option("--set", panel=HOW, metavar="NAME=VALUE", help="A setting of the sampler, schedule or guidance."),
]
TrueCfg = Annotated[
    float | None,
    _option("--true-cfg", panel=HOW, help="Classifier-free guidance on top, where the model has the scale built in."),
]
ClipSkip = Annotated[
    int | None, _option("--clip-skip", panel=HOW, help="Text layer to read, counted from the end; 1 is the last.")
]
Output = Annotated[
    str | None, _option("--output", "-o", panel=FILES, metavar="PATH", help="A picture file, a folder, or x.npz.")
]
Format = Annotated[str | None, _option("--format", panel=FILES, help="png, jpeg or webp.")]
Quality = Annotated[int, _option("--quality", panel=FILES, help="Of JPEG and WebP, 1 to 100.")]
Force = Annotated[bool, _option("--force", panel=FILES, help="Overwrite files.")]
Sheet = Annotated[bool, _option("--sheet/--no-sheet", panel=FILES, help="A page with all pictures, if several.")]
ModelName = Annotated[
    str, _option("--model", panel=RUN, help="'box', a weight file or a diffusers folder; see: diffgen models.")
]
Batch = Annotated[int, _option("--batch", panel=RUN, help="Pictures drawn together.")]
Dtype = Annotated[str, _option("--dtype", panel=RUN, help="float32, bfloat16, float16 or auto.")]
Device = Annotated[str, _option("--device", panel=RUN, help="cpu, cuda, mps or auto.")]
Kernels = Annotated[
    str, _option("--kernels", panel=RUN, help="auto (the fastest here, see: diffgen doctor), off, or a recipe's.")
]
Strict = Annotated[bool, _option("--strict", panel=RUN, help="A note, such as a cut prompt, is an error.")]
Json = Annotated[bool, _option("--json", panel=RUN, help="Print a JSON object a line instead of paths.")]
Preview = Annotated[
    bool | None, _option("--preview/--no-preview", panel=RUN, help="Show the picture forming, in the terminal.")
]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A picture to be: its prompts with the wildcards replaced, and as they were typed."""

    prompt: str
    negative: str
    seed: int
    extra: dict[str, str]


@takes_loading
def image(
    prompts: Prompts, negative: Negative = "", size: Size = None, seed: Seed = None, count: Count = 1,
    wildcards: Wildcards = None, steps: Steps = None, guidance: Guidance = None, true_cfg: TrueCfg = None,
    sampler: SamplerName = None, schedule: ScheduleName = None, set_: Settings = None, clip_skip: ClipSkip = None,
    lora: adapters.Lora = None, lora_dir: adapters.LoraDir = None, embedding: adapters.Embedding = None,
    output: Output = None, format: Format = None, quality: Quality = 95, force: Force = False, sheet: Sheet = True,
    model: ModelName = "box", batch: Batch = 1, dtype: Dtype = "auto", device: Device = "auto",
    kernels: Kernels = "auto", strict: Strict = False, json: Json = False, preview: Preview = None, *, loading: Loading,
) -> None:  # fmt: skip
    """Draw pictures from prompts.

    What is left out is the checkpoint's own choice. Without -o, pictures go
    to a dated folder under diffgen-out. Nothing is overwritten without
    --force, and every picture holds its whole recipe.

    Examples:
      diffgen image "3d emoji of a red apple" --seed 7 -o apple.png
      diffgen image "a {red|blue|green} car" --count 6
      diffgen image "an __animal__ on a hill" --wildcards words/
      diffgen image "a cat" "a dog" --size 256x128 --format webp -o pets/
      diffgen image "a (small:1.3) house" --sampler euler_ancestral --set eta=0.5
      diffgen image "a lamp" --count 4 --batch 4 --json -o lamps.npz
      diffgen image "a castle" --model sd15/ --lora ink.safetensors:0.7
      diffgen image "a pier" --model flux1-dev.safetensors --vae ae.safetensors
        --text-encoder clip_l.safetensors --text-encoder t5xxl_fp16.safetensors
        --tokenizer t5/ --true-cfg 2 --negative "people"
    """
    options = _options(size, steps, guidance, sampler, schedule, set_ or [], clip_skip, true_cfg)
    options |= {"kernels": checked_kernels(kernels)}
    options |= adapters.options(lora, lora_dir, embedding, allow_pickle=loading.allow_pickle)
    values.check_least("count", count, 1)
    values.check_least("batch", batch, 1)
    check_machine(model, dtype, loading)
    drafts = plan(prompts, negative, seed, count, wildcards or [])
    names = [readable_name(draft.prompt, draft.seed) for draft in drafts]
    target = outputs.plan(output, names, format=format, quality=quality, force=force)
    report = Report(as_json=json)
    with target.ready(), new_display(len(drafts), preview) as screen:
        from diffgen.app.startup import load_model

        loaded = load_model(model, dtype=dtype, device=device, strict=strict, **loading.options())
        from diffgen.pipelines import stream

        report.remark(loaded.notes)
        recipes = recipes_of(loaded, drafts, options)
        adapters.tell(loaded, recipes, as_json=json)
        screen.begin(loaded.family, recipes)
        draw(stream(loaded, recipes, batch=batch), target, report, screen, sheet=sheet)
    report.close(strict)


def checked_kernels(text: str) -> str:
    """What --kernels says, refused before anything loads where it is no choice of kernels."""
    if text not in ("auto", "off", "by-device"):
        from diffgen.kernels.choice import Choice

        Choice.from_text(text)
    return text


def _options(
    size: str | None, steps: int | None, guidance: float | None, sampler: str | None, schedule: str | None,
    pairs: Sequence[str], clip_skip: int | None, true_cfg: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What `pipelines.prepare` takes, checked as far as that needs no model."""
    from diffgen.spelling import canonical

    canonical(sampler, schedule)
    values.check_least("steps", steps, 1)
    values.check_least("guidance", guidance, 0)
    values.check_least("true-cfg", true_cfg, 0)
    return {
        "size": values.size_of(size), "steps": steps, "guidance": guidance, "sampler": sampler,
        "schedule": schedule, "settings": values.settings_of(pairs, clip_skip, true_cfg),
    }  # fmt: skip


def check_machine(model: str, dtype: str, loading: Loading) -> None:
    """Refuses a model or a part that is not there, and an unknown dtype."""
    from diffgen.checkpoints.load import dtype_name

    loading.check(model)
    if dtype != "auto":
        dtype_name(dtype)


def plan(
    prompts: Sequence[str], negative: str, seed: int | None, count: int, folders: Sequence[Path]
) -> tuple[Draft, ...]:
    """One draft a picture: `count` of each prompt, each prompt from the same first seed.

    Raises:
        UsageError: a prompt is empty, a wildcard cannot be read, or the seed is out of range.
    """
    from diffgen.prompts.wildcards import expand

    # Below 2^32 by choice, so that every tool can type it.
    first = secrets.randbelow(2**32) if seed is None else seed
    if not 0 <= first <= MOST_SEED - count:
        raise UsageError(f"seed must be 0 to {MOST_SEED - count}; got {first}")
    drafts = []
    for template in prompts:
        for number in range(first, first + count):
            prompt, without = (expand(text, seed=number, folders=folders) for text in (template, negative))
            if not prompt.strip():
                raise UsageError("the prompt is empty; say what to draw")
            # The names under which the web UI's dynamic prompts keep them.
            typed = {"Template": (template, prompt), "Negative Template": (negative, without)}
            extra = {name: before for name, (before, after) in typed.items() if before != after}
            drafts.append(Draft(prompt=prompt, negative=without, seed=number, extra=extra))
    return tuple(drafts)


def recipes_of(model: Model, drafts: Sequence[Draft], options: dict[str, Any]) -> list[Recipe]:
    """The whole recipe of each draft."""
    from diffgen.pipelines import prepare

    # Prompts may name different adapters, so each one is resolved; its pictures differ in their seeds alone.
    resolved: dict[tuple[str, str], Recipe] = {}
    for draft in drafts:
        if (draft.prompt, draft.negative) not in resolved:
            texts = {"prompt": draft.prompt, "negative": draft.negative}
            resolved[draft.prompt, draft.negative] = prepare(model, **texts, seed=draft.seed, **options)[0]
    made = [(draft, resolved[draft.prompt, draft.negative]) for draft in drafts]
    return [replace(recipe, seed=draft.seed, extra={**recipe.extra, **draft.extra}) for draft, recipe in made]
