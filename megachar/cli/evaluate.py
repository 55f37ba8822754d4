"""`megachar evaluate RUN`: bits per character of a split, as the papers report them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from megachar.config.schema import TransformerConfig
from megachar.errors import ConfigError, DataError
from megachar.evaluation.progress import show_progress
from megachar.evaluation.result import Evaluation, EvaluationSettings, write_json
from megachar.evaluation.windows import default_stride
from megachar.units import bits, word_perplexity

if TYPE_CHECKING:
    from megachar.config.schema import Experiment
    from megachar.data.corpus import Corpus

DECODED_TOKENS = 1 << 20  # at once, to count bytes


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder such as runs/small, a checkpoint's, or an exported file.")],
    split: Annotated[str, typer.Option(help="Which text: valid, test or train.")] = "valid",
    stride: Annotated[
        int | None,
        typer.Option(help="Characters between windows; 1 is the paper's, and slow. Default: an eighth of the context."),
    ] = None,
    step: Annotated[int | None, typer.Option(help="Checkpoint of a run; default: the newest.")] = None,
    max_characters: Annotated[int | None, typer.Option(help="Score only the first so many characters.")] = None,
    batch_size: Annotated[int, typer.Option(help="Windows in one forward pass.")] = 32,
    processes: Annotated[int, typer.Option(help="Processes that share the work; with CUDA one GPU each.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 for the blocks.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data: Annotated[Path | None, typer.Option(help="Corpus folder; default: the one the run was trained on.")] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            help="Write the result here too; the run folder always gets it, or the folder of an exported file."
        ),
    ] = None,
) -> None:
    """Bits per character of a split: every character is scored exactly once, by the last layer's first target."""
    from megachar.training.checkpoints.sources import load_settings, result_path

    # All that can be wrong is found before torch is imported, which takes seconds.
    experiment = load_settings(run)
    if not isinstance(experiment.model, TransformerConfig):
        raise ConfigError(f"{run} is a recurrent model, and `megachar evaluate` takes transformers")
    context = experiment.model.context
    settings = EvaluationSettings(
        default_stride(context) if stride is None else stride, batch_size, processes, precision, device
    )
    settings.check(context)
    if max_characters is not None and max_characters < 1:
        raise ConfigError(f"--max-characters {max_characters}: nothing would be scored; set 1 or more, or leave it out")
    if json is not None and not json.parent.is_dir():
        raise ConfigError(f"--json {json}: the folder {json.parent} does not exist; make it first")
    corpus = open_corpus(experiment, data)
    tokens = corpus.split(split).tokens

    from megachar.evaluation.evaluate import evaluate as score
    from megachar.models.transformer import Transformer
    from megachar.training.checkpoints.reading import load_model

    loaded = load_model(run, step)
    assert isinstance(loaded.model, Transformer)
    total = min(tokens.size, max_characters or tokens.size)
    with show_progress(Console(stderr=True), total) as progress:
        result = score(
            loaded.model,
            tokens,
            settings,
            split=split,
            step=loaded.step,
            max_characters=max_characters,
            progress=progress,
        )
    values = {**result.as_dict(), **text_figures(result, corpus), "corpus": corpus.fingerprint}
    unit = "token" if corpus.vocabulary.name == "sentencepiece" else "character"
    _print(result, values, unit)  # before it is written: a full disk must not cost the figure
    for path in (result_path(run, result.file_name), json):
        if path is not None:
            write_json(path, values)
            typer.echo(f"saved {path}")


def open_corpus(experiment: "Experiment", data: Path | None) -> "Corpus":
    """The corpus in `data`, or the one the experiment was trained on.

    ConfigError where neither is named; DataError where there is none, or its vocabulary is not the model's size.
    """
    from megachar.data.corpus import Corpus

    if data is None and experiment.data.blend:
        folders = ", ".join(part.path for part in experiment.data.blend)
        raise ConfigError(f"the run was trained on several corpora ({folders}); name one with --data FOLDER")
    if data is None and not experiment.data.path:
        raise ConfigError("the run names no corpus (data.path is empty); name one with --data FOLDER")
    corpus = Corpus.open(data or Path(experiment.data.path))
    if corpus.vocabulary.size != experiment.model.vocabulary_size:
        raise DataError(
            f"the corpus {corpus.folder} has {corpus.vocabulary.size} symbols, the model "
            f"{experiment.model.vocabulary_size}; name the corpus it was trained on with --data FOLDER"
        )
    return corpus


def text_figures(result: Evaluation, corpus: "Corpus") -> dict[str, Any]:
    """What compares models of different vocabularies: bits per byte, and of a whole split with words, their perplexity.

    A part of a split is decoded to count its bytes.
    """
    card = next(card for name, card in corpus.card.splits.items() if name == result.split)
    if result.whole_split:
        num_bytes = card.num_bytes
    else:
        tokens, stop = corpus.split(result.split).tokens, result.num_characters
        starts = range(0, stop, DECODED_TOKENS)
        decode = corpus.vocabulary.decode
        num_bytes = sum(len(decode(tokens[start : min(start + DECODED_TOKENS, stop)])) for start in starts)
    if not num_bytes:  # the first token may be one that stands for no text
        return {}
    bits_per_byte = bits(result.nats) / num_bytes
    figures: dict[str, Any] = {"bits_per_byte": bits_per_byte, "num_bytes": num_bytes}
    if result.whole_split and card.num_words:
        perplexity = word_perplexity(bits_per_byte, num_bytes, card.num_words)
        figures |= {"word_perplexity": perplexity, "num_words": card.num_words}
    return figures


def _print(result: Evaluation, values: dict[str, Any], unit: str) -> None:
    """The result as a table on stdout. `unit`: what the vocabulary's tokens are called."""
    stride, context = result.settings.stride, result.context
    least = "each from the whole context" if stride == 1 else f"each from at least {context - stride + 1:,}"
    share = "" if result.whole_split else " (the first of the split)"
    rows = [
        ("split", result.split),
        ("checkpoint", f"step {result.step:,}"),
        ("context", f"{context:,} {unit}s"),
        ("stride", f"{stride:,}: {least}" + (" (the paper's protocol)" if stride == 1 else "; the paper's is 1")),
        ("scored", f"{result.num_characters:,} {unit}s{share}"),
        ("precision", result.settings.precision),
        ("nats", f"{result.nats:,.2f}"),
        ("time", f"{result.seconds:,.1f} s, {result.characters_per_second:,.0f} {unit}s/s"),
    ]
    if values.get("num_bytes") != result.num_characters and "bits_per_byte" in values:
        rows.append(("bits per byte", f"{values['bits_per_byte']:.4f} ({values['num_bytes']:,} bytes)"))
    if "word_perplexity" in values:
        rows.append(("word perplexity", f"{values['word_perplexity']:,.2f} ({values['num_words']:,} words)"))
    table = Table("protocol", "", show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    table.add_row(f"bits per {unit}", f"[bold]{result.bits_per_character:.4f}[/bold]")
    Console().print(table, highlight=False)
