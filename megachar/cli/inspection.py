"""`megachar corpus inspect`: figures, pictures and pieces of a corpus."""

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from megachar.base.errors import ConfigError, DataError
from megachar.base.files import json_text
from megachar.base.pictures import PictureFormat
from megachar.base.tables import print_table
from megachar.cli.shared.options import Format, check_folder_of
from megachar.cli.stages import Stages, errors_of_the_system
from megachar.corpora.histogram import draw_histogram
from megachar.corpora.inspection import DEFAULT_SAMPLE, Figures, OpenedSplit, figures_of, open_split, verify_split
from megachar.data.batches import evenly_spaced_starts
from megachar.data.corpus import CorpusCard
from megachar.generation.decoding import TerminalDecoder, for_encoding

MANY_SEEN_ONCE = 0.1


def inspect(
    path: Annotated[Path, typer.Argument(help="Corpus folder, or a .bin/.idx dataset without its ending.")],
    split: Annotated[
        str | None, typer.Option(metavar="<train|valid|test>", help="Which text; default: the first.")
    ] = None,
    windows: Annotated[int, typer.Option(help="Pieces of text to show, spread evenly; 0 for none.")] = 3,
    window_tokens: Annotated[int, typer.Option(help="Length of each.")] = 320,
    sample: Annotated[int, typer.Option(help="Tokens to measure at most, spread evenly.")] = DEFAULT_SAMPLE,
    picture: Annotated[
        Path | None, typer.Option(help="File of the histogram; default: NAME.SPLIT.png, or such, beside the corpus.")
    ] = None,
    picture_format: Format = "png",
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every split, or that of --split, with its sha256 in the card.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Look at a corpus: sizes, histogram of its symbols, entropies, what xz makes of it, and some of its text."""
    if windows < 0 or window_tokens < 1:
        raise ConfigError(f"--windows {windows} of --window-tokens {window_tokens}: set 0 or more of 1 or more")
    opened = open_split(path, split)
    picture = _default_picture(path, opened, picture_format) if picture is None else picture
    if picture.suffix[1:] in get_args(PictureFormat) and picture.suffix[1:] != picture_format:
        raise ConfigError(f"--picture {picture} is to be a {picture_format}; set --format {picture.suffix[1:]} as well")
    check_folder_of(picture, "--picture")
    check_folder_of(json_file, "--json")
    stages, console = Stages(Console(stderr=True)), Console()
    verified = _verify(opened, split, stages, console) if verify else []
    _print_sizes(opened, console)
    figures = figures_of(opened, sample, stages)
    _print_figures(opened, figures, console)
    _print_windows(opened, windows, window_tokens)
    with errors_of_the_system(picture):
        used = f"{np.count_nonzero(figures.counts):,} of {figures.counts.size:,} symbols occur"
        title = f"{opened.title}: {used} in {_sample_size(opened, figures)}"
        draw_histogram(figures.counts, _symbols(opened, figures), title, picture, picture_format)
    typer.echo(f"histogram: {picture}")
    if json_file is not None:
        with errors_of_the_system(json_file):
            json_file.write_text(json_text(_values(opened, figures, verified), indent=2) + "\n", encoding="utf-8")
        typer.echo(f"saved {json_file}")


def print_splits(title: str, card: CorpusCard, console: Console) -> None:
    """The sizes of every split, below a title."""
    print_title(f"{title}: vocabulary {card.vocabulary.name} ({card.vocabulary.size})", console)
    print_table(splits_table(card), console)


def splits_table(card: CorpusCard) -> Table:
    """The sizes of every split."""
    headings = ("tokens", "documents", "bytes", "words", "bytes/word")
    table = Table("split", *(Column(heading, justify="right") for heading in headings))
    for name, split in card.splits.items():
        counts = (split.num_tokens, split.num_documents, split.num_bytes, split.num_words)
        ratio = f"{split.num_bytes / split.num_words:.5f}" if split.num_words else "-"
        table.add_row(name, *(f"{count:,}" for count in counts), ratio)
    return table


def print_title(title: str, console: Console) -> None:
    """A line above a table, which would wrap a title of its own at its narrow width."""
    console.print(Text(title, style="bold"), soft_wrap=True)


def _default_picture(path: Path, opened: OpenedSplit, ending: str) -> Path:
    """Beside the corpus, not in it: `--overwrite` refuses to replace a folder that holds anything else."""
    path = path.resolve() if opened.corpus is not None else opened.dataset.prefix
    return path.with_name(f"{path.name}.{opened.name}.{ending}" if opened.name else f"{path.name}.{ending}")


def _verify(opened: OpenedSplit, split: str | None, stages: Stages, console: Console) -> list[str]:
    """Compare the data with the card; the names of the splits that were right."""
    if opened.corpus is None:
        raise DataError(f"{opened.title} has no card with a sha256: there is nothing to verify it against")
    right: list[str] = []
    for name in opened.corpus.split_names:
        if split in (None, name):
            with stages(f"Verifying {name}", opened.corpus.card.splits[name].num_bytes) as progress:
                verify_split(opened.corpus, name, progress)
            console.print(f"{name}: sha256 is right", highlight=False)
            right.append(name)
    return right


def _print_sizes(opened: OpenedSplit, console: Console) -> None:
    """The card, or what the index of a dataset without one says."""
    dataset = opened.dataset
    if opened.corpus is None:
        print_title(f"{opened.title}: no card", console)
        table = Table(show_header=False)
        table.add_row("tokens", f"{dataset.num_tokens:,} of type {dataset.dtype.name}")
        table.add_row("documents", f"{dataset.num_documents:,}")
        table.add_row("sequences", f"{dataset.num_sequences:,}")
        table.add_row("vocabulary", "unknown" if opened.vocabulary is None else "unknown; taken for bytes")
        print_table(table, console)
        return
    card = opened.corpus.card
    print_splits(f"{opened.corpus.folder}, {opened.corpus.fingerprint}", card, console)
    sources = Table("made from", "bytes", "sha256")
    for source in card.sources[:10]:
        sources.add_row(Text(source.name), f"{source.num_bytes:,}", source.sha256)
    if len(card.sources) > 10:
        sources.add_row(f"and {len(card.sources) - 10:,} more", "", "")
    print_table(sources, console)


def _print_figures(opened: OpenedSplit, figures: Figures, console: Console) -> None:
    """Entropies and compression, per token, and per byte where that is something else."""
    per_byte = opened.vocabulary is not None and figures.num_bytes != figures.num_sampled
    print_title(f"{opened.title}: measured on {_sample_size(opened, figures)}", console)
    headings = (f"bits per {_unit(opened)}", *(["bits per byte"] if per_byte else []), "runs seen once")
    table = Table("", *(Column(heading, justify="right") for heading in headings))
    scales = (1.0, figures.num_sampled / figures.num_bytes) if per_byte else (1.0,)

    def add(name: str, bits: float, seen_once: str = "") -> None:
        table.add_row(name, *(f"{bits * scale:.3f}" for scale in scales), seen_once)

    num_used = int(np.count_nonzero(figures.counts))
    add(f"{num_used:,} symbols, all alike", math.log2(num_used))
    for order, (entropy, known) in enumerate(zip(figures.entropies, ("none", "one", "two"), strict=True)):
        if entropy is not None:
            add(f"entropy of order {order}: {known} before it known", entropy.bits, f"{entropy.seen_once:.1%}")
    add("xz -6", figures.xz_bits)
    print_table(table, console)
    if any(entropy is not None and entropy.seen_once > MANY_SEEN_ONCE for entropy in figures.entropies):
        console.print("An entropy is far too small where many runs are seen once: take a larger --sample.")


def _print_windows(opened: OpenedSplit, count: int, num_tokens: int) -> None:
    """Pieces of the text; what a terminal would obey, or cannot show, is escaped."""
    tokens = opened.dataset.tokens
    num_tokens = min(num_tokens, tokens.size)
    starts: list[int] = evenly_spaced_starts(tokens.size, num_tokens, count).tolist() if count else []
    for start in starts:
        window = tokens[start : start + num_tokens]
        text = opened.text_of(window)
        decoder = TerminalDecoder()
        shown = " ".join(map(str, window)) if text is None else decoder.feed(text) + decoder.finish()
        typer.echo(typer.style(f"--- {_unit(opened)}s {start:,} to {start + num_tokens:,}", bold=True))
        typer.echo(for_encoding(shown, sys.stdout.encoding or "utf-8"))


def _unit(opened: OpenedSplit) -> str:
    return "token" if opened.vocabulary is None else opened.vocabulary.unit


def _sample_size(opened: OpenedSplit, figures: Figures) -> str:
    total = opened.dataset.num_tokens
    if figures.num_sampled == total:
        return f"all {total:,} {_unit(opened)}s"
    return f"{figures.num_sampled:,} of {total:,} {_unit(opened)}s, spread evenly"


def _symbols(opened: OpenedSplit, figures: Figures) -> list[bytes] | None:
    """The text of each token."""
    vocabulary = opened.vocabulary
    if vocabulary is None:
        return None
    return [vocabulary.decode(np.array([token], dtype=vocabulary.dtype)) for token in range(figures.counts.size)]


def _values(opened: OpenedSplit, figures: Figures, verified: list[str]) -> dict[str, Any]:
    """Everything, for `--json`."""
    dataset = opened.dataset
    return {
        "path": str(opened.corpus.folder if opened.corpus else dataset.prefix),
        "split": opened.name,
        "card": None if opened.corpus is None else opened.corpus.card.model_dump(mode="json", exclude_none=True),
        "verified": verified,
        "num_tokens": dataset.num_tokens,
        "num_documents": dataset.num_documents,
        "dtype": dataset.dtype.name,
        "sample": {
            "num_tokens": figures.num_sampled,
            "num_bytes": figures.num_bytes,
            "counts": figures.counts.tolist(),
            "entropies": [None if entropy is None else asdict(entropy) for entropy in figures.entropies],
            "xz_bits": figures.xz_bits,
        },
    }
