"""What `megachar evaluate` shows and saves."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Column, Table

from megachar.base.files import shown
from megachar.base.tables import print_table
from megachar.base.units import bits, bits_per_character, word_perplexity
from megachar.cli.shared.corpora import Provenance
from megachar.data.corpus import Corpus
from megachar.data.vocabulary import Unit
from megachar.evaluation.result import DynamicEvaluation, Evaluation, Scores, write_json

DECODED_TOKENS = 1 << 20  # at once, to count bytes


@dataclass(frozen=True)
class TextSize:
    """What compares models of different vocabularies by: bytes, and of a whole split with words, words."""

    num_bytes: int
    """0: the text is of tokens that stand for none."""
    num_words: int | None
    num_characters: int | None = None
    """UTF-8's, where tokens may be more or less than one; None where each token counts as one."""

    @staticmethod
    def of(result: Evaluation, corpus: Corpus) -> "TextSize":
        """Of the text that was scored. A part of a split is decoded to count its bytes."""
        card = next(card for name, card in corpus.card.splits.items() if name == result.split)
        counts_characters = corpus.vocabulary.unit == "token"
        if result.whole_split and not counts_characters:
            return TextSize(card.num_bytes, card.num_words)
        tokens, stop = corpus.split(result.split).tokens, result.num_characters
        num_bytes = num_characters = 0
        for start in range(0, stop, DECODED_TOKENS):
            text = corpus.vocabulary.decode(tokens[start : min(start + DECODED_TOKENS, stop)])
            num_bytes += len(text)
            num_characters += int(np.count_nonzero(np.frombuffer(text, np.uint8) & 0xC0 != 0x80))  # first bytes
        num_words = card.num_words if result.whole_split else None
        return TextSize(num_bytes, num_words, num_characters if counts_characters else None)

    def figures(self, nats: float) -> dict[str, float]:
        """Bits per byte, per character and word perplexity, where there are bytes, characters to count, and words."""
        if not self.num_bytes:
            return {}
        found, bits_per_byte = dict[str, float](), bits(nats) / self.num_bytes
        if self.num_words:
            perplexity = word_perplexity(bits_per_byte, self.num_bytes, self.num_words)
            if math.isfinite(perplexity):  # it is not, of words that are hundreds of bytes long
                found["word_perplexity"] = perplexity
        if self.num_characters:
            found["bits_per_character"] = bits_per_character(nats, self.num_characters)
        return {**found, "bits_per_byte": bits_per_byte}


@dataclass(frozen=True)
class Report:
    """Everything found about one text; the dynamic figure stands beside the static one."""

    static: Evaluation
    size: TextSize
    provenance: Provenance
    dynamic: DynamicEvaluation | None = None

    def values(self) -> dict[str, Any]:
        """For JSON: the static evaluation, and under `dynamic` the other one or null."""
        sizes = {name: value for name, value in asdict(self.size).items() if value}
        dynamic = self.dynamic and {**self._measured(self.dynamic), **self.size.figures(self.dynamic.nats)}
        return {
            **self._measured(self.static),
            **self.size.figures(self.static.nats),
            **sizes,
            "unit": self.unit,
            **self.provenance.values(),
            "dynamic": dynamic,
        }

    @property
    def unit(self) -> Unit:
        """What was scored one by one."""
        return self.provenance.corpus.vocabulary.unit

    def _measured(self, scores: Evaluation | DynamicEvaluation) -> dict[str, Any]:
        """The scores as plain values, tokens under their own names where they are no characters."""
        values = scores.as_dict()
        if self.unit == "character":
            return values
        return {name.replace("character", "token"): value for name, value in values.items()}

    def table(self) -> Table:
        """One column for each protocol."""
        static, size, context = self.static, self.size, self.static.context
        unit, corpus = self.unit, self.provenance.corpus
        another = ", not the one trained on" if self.provenance.is_training_corpus is False else ""
        results: list[Scores] = [static, *([self.dynamic] if self.dynamic else [])]
        share = "" if static.whole_split else " (the first of the split)"
        rows: list[tuple[str, list[str]]] = [
            ("split", [static.split]),
            ("corpus", [f"{shown(corpus.folder)} ({corpus.fingerprint}){another}"]),
            ("checkpoint", [f"step {static.step:,}"]),
            ("scored", [f"{static.num_characters:,} {unit}s{share}"]),
            *([("context", [f"{context:,} {unit}s"])] if context else []),
            ("reads", [static.settings.advice(context, unit), *([_follows(self.dynamic)] if self.dynamic else [])]),
            *([("weights", ["as trained", _weights(self.dynamic, unit)])] if self.dynamic else []),
            ("precision", [static.settings.precision]),
            ("nats", [f"{result.nats:,.2f}" for result in results]),
            ("time", [f"{r.seconds:,.1f} s, {r.characters_per_second:,.0f} {unit}s/s" for r in results]),
        ]
        figures = [size.figures(result.nats) for result in results]
        if size.num_bytes not in (0, static.num_characters):
            rows.append(("bits per byte", [f"{f['bits_per_byte']:.4f} ({size.num_bytes:,} bytes)" for f in figures]))
        if all("word_perplexity" in found for found in figures):
            words = f"({size.num_words:,} words)"
            rows.append(("word perplexity", [f"{f['word_perplexity']:,.2f} {words}" for f in figures]))
        if size.num_characters:
            characters = f"({size.num_characters:,} characters)"
            rows.append(("bits per character", [f"{f['bits_per_character']:.4f} {characters}" for f in figures]))
        rows.append((f"bits per {unit}", [f"[bold]{result.bits_per_character:.4f}[/bold]" for result in results]))
        table = Table(Column("protocol", no_wrap=True), "static", *(["dynamic"] if self.dynamic else []))
        for name, cells in rows:
            table.add_row(name, *(cells if len(cells) > 1 else cells * len(results)))
        return table


def publish(report: Report, *paths: Path | None) -> None:
    """Print the report, and then write it: a full disk must not cost the figure."""
    print_table(report.table(), Console(highlight=False))
    for path in paths:
        if path is not None:
            write_json(path, report.values())
            typer.echo(f"saved {path}")


def _follows(dynamic: DynamicEvaluation) -> str:
    settings = dynamic.settings
    whole = "the whole text" if dynamic.context is None else f"windows with a stride of {settings.segment_length:,}"
    if settings.streams == 1:
        return whole
    return f"{whole} in {settings.streams:,} parts side by side, each from nothing"


def _weights(dynamic: DynamicEvaluation, unit: str) -> str:
    s = dynamic.settings
    rms = f", epsilon {s.epsilon:g}, statistics of {s.statistics:,} {unit}s of train" if s.rule == "rms" else ""
    return (
        f"a step of {s.rule} after every {s.segment_length:,} {unit}s: learning rate {s.learning_rate:g}, decay "
        f"{s.decay:g}{rms}"
    )
