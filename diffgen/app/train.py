"""`diffgen train` and the judge behind `diffgen evaluate box`: arguments in, one call of `diffgen.train` out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train the parts of a small latent-diffusion model, with exact resume.", no_args_is_help=True)

CACHE = Path.home() / ".cache" / "diffgen"

Data = Annotated[Path, typer.Option(help="Folder of the picture set (built with: diffgen train data).")]
Out = Annotated[Path, typer.Option(help="Folder for checkpoints, samples, curves and the finished part.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out.")]
Minutes = Annotated[float | None, typer.Option(help="Stop and save after so many minutes.")]
Change = Annotated[list[str] | None, typer.Option("--set", help="Change a key of the recipe's loop: steps=9000.")]
Recipe = Annotated[str, typer.Argument(help="A recipe that comes with diffgen, or a JSON file.")]
# torchrun takes any beginning of its own options for itself, and --start is one of --start-method.
Start = Annotated[Path | None, typer.Option("--init", help="Folder of trained weights to go on from.")]


def _quiet() -> None:
    """One thread a process: two processes whose threads share two busy cores run many times slower."""
    import torch

    torch.set_num_threads(1)


@app.command("data")
def build_data(data: Data = CACHE / "emoji", seed: int = 0) -> None:
    """Download the emoji packages and build the picture set."""
    from diffgen.train.data import build

    print(f"{build(data, seed=seed)} pictures in {data}")


@app.command("autoencoder")
def autoencoder(
    recipe: Recipe = "autoencoder",
    data: Data = CACHE / "emoji",
    out: Out = CACHE / "train" / "autoencoder",
    resume: Resume = False,
    minutes: Minutes = None,
    change: Change = None,
    start: Start = None,
) -> None:
    """Train the autoencoder between pictures and latents."""
    from diffgen.train.methods import train_autoencoder

    _quiet()
    train_autoencoder(recipe, data=data, out=out, resume=resume, minutes=minutes, changes=change or [], start=start)


@app.command("text-encoder")
def text_encoder(
    merges: Annotated[Path, typer.Option(help="bpe_simple_vocab_16e6.txt.gz, or the clip-anytorch wheel.")],
    recipe: Recipe = "text-encoder",
    data: Data = CACHE / "emoji",
    out: Out = CACHE / "train" / "text-encoder",
    teacher: Annotated[Path | None, typer.Option(help="Folder of all-MiniLM-L6-v2.")] = None,
    resume: Resume = False,
    minutes: Minutes = None,
    change: Change = None,
) -> None:
    """Distil the text encoder from a sentence encoder."""
    from diffgen.train.methods import train_text_encoder

    _quiet()
    train_text_encoder(
        recipe, data=data, out=out, merges=merges, teacher=teacher, resume=resume, minutes=minutes, changes=change or []
    )


@app.command("denoiser")
def denoiser(
    autoencoder: Annotated[Path, typer.Option(help="Folder of the trained autoencoder.")],
    text_encoder: Annotated[Path, typer.Option(help="Folder that holds text_encoder and tokenizer.")],
    recipe: Recipe = "denoiser",
    data: Data = CACHE / "emoji",
    out: Out = CACHE / "train" / "denoiser",
    resume: Resume = False,
    minutes: Minutes = None,
    change: Change = None,
    start: Start = None,
) -> None:
    """Train the denoiser; for two processes: torchrun --nproc-per-node 2 -m diffgen.app.train denoiser ..."""
    from diffgen.train.methods import train_denoiser

    _quiet()
    train_denoiser(
        recipe,
        data=data,
        out=out,
        autoencoder=autoencoder,
        text_encoder=text_encoder,
        resume=resume,
        minutes=minutes,
        changes=change or [],
        start=start,
    )


@app.command("clips")
def build_clips(data: Data = CACHE / "clips") -> None:
    """Download the animated emoji packages and build the clips that motion modules learn from."""
    from diffgen.train.motion_data import build

    print(f"{build(data)} clips in {data}")


@app.command("motion")
def motion(
    recipe: Recipe = "motion",
    data: Annotated[Path, typer.Option(help="Folder of the clips (built with: diffgen train clips).")] = CACHE
    / "clips",
    out: Out = CACHE / "train" / "motion",
    model: Annotated[
        Path | None, typer.Option(help="Folder of the picture model; by default the one in the box.")
    ] = None,
    resume: Resume = False,
    minutes: Minutes = None,
    change: Change = None,
    start: Start = None,
) -> None:
    """Train motion modules (AnimateDiff) beside a frozen picture model."""
    from diffgen.checkpoints.load import find
    from diffgen.train.methods import train_motion

    _quiet()
    train_motion(
        recipe,
        data=data,
        out=out,
        picture_model=find(model)[1],
        resume=resume,
        minutes=minutes,
        changes=change or [],
        start=start,
    )


@app.command("export")
def export(
    autoencoder: Annotated[Path, typer.Option(help="Folder of the trained autoencoder.")],
    text_encoder: Annotated[Path, typer.Option(help="Folder that holds text_encoder and tokenizer.")],
    unet: Annotated[Path, typer.Option(help="Folder of the trained U-Net.")],
    out: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
) -> None:
    """Put the trained parts together as a StableDiffusionPipeline folder in float16."""
    from diffgen.train.export import assemble

    print(f"{assemble(out, autoencoder=autoencoder, text_encoder=text_encoder, unet=unet):,} bytes in {out}")


def evaluate(
    folder: Annotated[Path | None, typer.Option(help="Checkpoint folder; by default the model in the box.")] = None,
    data: Data = CACHE / "emoji",
    cache: Annotated[Path, typer.Option(help="Where the judge's weights are kept.")] = CACHE / "judge",
    count: Annotated[int, typer.Option(help="Pictures to generate.")] = 500,
    judge_steps: Annotated[int, typer.Option(help="Training steps of the judge, if it is not trained yet.")] = 1500,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Also write the scores to this JSON file.")] = None,
) -> None:
    """Let a judge, trained on real pictures alone, say how often the model draws what it was asked for."""
    from importlib import resources

    from diffgen.train.evaluate import judge_box, save_scores, table

    _quiet()
    box = folder or Path(str(resources.files("diffgen.assets") / "box"))
    scores = judge_box(box, data=data, cache=cache, count=count, seed=seed, judge_steps=judge_steps)
    print(table(scores))
    if out is not None:
        save_scores(scores, out)


if __name__ == "__main__":
    app()
