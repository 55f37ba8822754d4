"""`megachar generate RUN`: a continuation of a prompt, character by character."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from megachar.base.errors import ConfigError
from megachar.cli.shared.given_model import check_model, loading
from megachar.cli.shared.given_text import encode_given, read_prompt
from megachar.cli.shared.options import Device, Run, Step, Threads, check_device, check_folder_of
from megachar.generation.decoding import TerminalDecoder, for_encoding
from megachar.generation.settings import SamplingSettings, check_num_characters, check_slide
from megachar.runs.checkpoints.sources import load_settings
from megachar.runs.checkpoints.vocabularies import load_vocabulary


def generate(
    run: Run,
    prompt: Annotated[str | None, typer.Option(help="Text to continue.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="File to continue, its bytes as they are.")] = None,
    characters: Annotated[int, typer.Option(help="How many characters to generate.")] = 500,
    temperature: Annotated[float | None, typer.Option(help="Below 1 safer, above 1 wilder; default: 1.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest characters; default: all.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Only the likeliest characters that reach p together; default: all.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest character.")] = False,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text; default: a fresh one, shown.")] = None,
    slide: Annotated[
        int | None,
        typer.Option(
            help="Transformers: characters dropped when the window is full; 1 is exact and slow; default: t/4."
        ),
    ] = None,
    step: Step = None,
    device: Device = "auto",
    threads: Threads = None,
    raw_output: Annotated[Path | None, typer.Option(help="Write the continuation's bytes here, as they are.")] = None,
) -> None:
    """Continue a prompt. What is no printable UTF-8 is shown escaped; --raw-output keeps the bytes."""
    # All that can be wrong is found before torch is imported, which takes seconds.
    experiment = load_settings(run)
    settings = SamplingSettings(temperature, top_k, top_p, greedy, seed)
    settings.check(experiment.model.vocabulary_size)
    check_slide(slide, experiment.model.context_limit)
    check_num_characters(characters)
    check_device(device)
    text = read_prompt(prompt, prompt_file)
    vocabulary = load_vocabulary(run, step)
    tokens = encode_given(vocabulary, text, "the prompt").tolist()
    check_folder_of(raw_output, "--raw-output")

    check_model(run, step)
    with loading():
        from megachar.base.device import choose_device
        from megachar.generation.generator import generate as continue_text
        from megachar.generation.sampling import Sampler
        from megachar.parallel.threads import use_threads
        from megachar.runs.checkpoints.reading import load_model

        sampler = Sampler(settings, experiment.model.vocabulary_size)
        model = load_model(run, step).model.to(choose_device(device))
    use_threads(threads, model, rows=1)
    symbols = continue_text(model, tokens, characters, sampler, slide)
    started = time.monotonic()
    with _open_raw(raw_output) as raw:
        show_text(text, (vocabulary.decode([symbol]) for symbol in symbols), raw)
    seconds = max(time.monotonic() - started, 1e-9)
    chosen = "greedy" if greedy else f"seed {sampler.seed}"
    typer.echo(f"{characters:,} characters, {characters / seconds:,.0f} characters/s, {chosen}", err=True)


def show_text(prompt: bytes, pieces: Iterable[bytes], raw: BinaryIO | None) -> None:
    """Print the prompt, bold on a terminal, and its continuation as it comes; write the latter's bytes to `raw`."""
    decoder = TerminalDecoder()
    _show(decoder.feed(prompt), bold=True)
    for piece in pieces:
        if raw is not None:
            raw.write(piece)
        _show(decoder.feed(piece))
    _show(decoder.finish() + "\n")


@contextmanager
def _open_raw(path: Path | None) -> Iterator[BinaryIO | None]:
    """The file for the bytes, unbuffered so that an interrupted run leaves what it had; None without a path."""
    if path is None:
        yield None
        return
    try:
        file = path.open("wb", buffering=0)
    except OSError as error:
        raise ConfigError(f"--raw-output {path} cannot be written: {error.strerror}; name another file") from error
    with file:
        yield file


def _show(text: str, bold: bool = False) -> None:
    """Print at once, without a line end. Where stdout is no terminal, click leaves the bold out."""
    if text:
        safe = for_encoding(text, sys.stdout.encoding or "utf-8")
        typer.echo(typer.style(safe, bold=True) if bold else safe, nl=False)
