"""How two models recover from surprises (Krause et al. 2016, figure 3)."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from megachar.analysis.finish import Saving, finish
from megachar.analysis.given import Computing, Data, MaxCharacters, Stride, identify, open_common_corpus, read_tokens
from megachar.analysis.result import Analysis, Column, Subject, Table
from megachar.base import mpl
from megachar.base.errors import ConfigError
from megachar.base.pictures import MARK, series, style
from megachar.base.units import NATS_PER_BIT
from megachar.cli.shared.groups import option, spread
from megachar.cli.shared.options import Run, Split

Floats = npt.NDArray[np.float64]
MIN_BLOCKS = 10
_RESAMPLES_AT_ONCE = 256


@dataclass(frozen=True)
class SurpriseSettings:
    """Which characters are surprising, and how sure the means are."""

    share: float = option(0.1, "Of the characters that surprise both models most.")
    """By the average of both models' losses."""
    reach: int = option(4, "Characters after a surprise that are looked at.")
    block: int = option(1000, "Characters of the blocks that are resampled.")
    """Blocks are drawn anew whole, because neighbors' losses go together."""
    resamples: int = option(10_000, "Resampled texts that intervals are taken from.")
    confidence: float = option(0.95, "Of the intervals.")
    """Share of the drawn texts whose means lie in an interval."""
    seed: int = option(1, "Of the resampling.")

    def check(self, num_characters: int) -> None:
        """ConfigError on the first setting that is out of range, or does not fit a text of so many characters."""
        if not 0 < self.share < 1:
            raise ConfigError(f"share = {self.share} of the characters cannot be compared with all; set 0.1, or such")
        if self.reach < 1:
            raise ConfigError(f"reach = {self.reach}: nothing after a surprise would be looked at; set 4, or 1 or more")
        if self.block <= self.reach:
            raise ConfigError(
                f"block = {self.block} characters is not longer than what a surprise reaches ({self.reach}); "
                "set some hundred or more"
            )
        if self.resamples < 100:
            raise ConfigError(f"resamples = {self.resamples} are too few for an interval; set 100 or more")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence = {self.confidence} is no share between 0 and 1; set 0.95, or such")
        if self.seed < 0:
            raise ConfigError(f"seed = {self.seed} is below 0; set 0 or more")
        if num_characters // self.block < MIN_BLOCKS:
            raise ConfigError(
                f"a text of {num_characters:,} characters has {num_characters // self.block} blocks of {self.block:,}, "
                f"too few for intervals; give {MIN_BLOCKS * self.block:,} characters or more, or set a block of "
                f"{num_characters // MIN_BLOCKS:,} or fewer"
            )


@dataclass(frozen=True)
class Interval:
    """A mean in bits per character, and the interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Both models' losses on some characters of the text."""

    offset: int | None
    """Characters after a surprise, 0 the surprise itself; None: all characters."""
    num_characters: int
    first: Interval
    second: Interval
    difference: Interval
    """First minus second, on the same characters."""


def compare_surprises(first: Floats, second: Floats, settings: SurpriseSettings) -> list[Comparison]:
    """The losses on surprising characters, after them, and on all.

    Args:
        first: nats of each character of the text by one model, (N,). The text's first character is left out, for it is
            predicted from nothing.
        second: likewise by the other model.
        settings: those of `SurpriseSettings`; which characters surprise is not drawn anew.

    Raises:
        ConfigError: a setting is out of range, or does not fit the text.
    """
    assert first.shape == second.shape
    assert first.ndim == 1
    settings.check(first.size - 1)
    bits = np.stack([first[1:], second[1:]]) / NATS_PER_BIT  # (2, N - 1)
    surprises = surprising(bits.mean(0), settings.share)
    rng = np.random.default_rng(settings.seed)
    num_blocks = -(-bits.shape[1] // settings.block)
    chosen: list[tuple[int | None, npt.NDArray[np.int64], int]] = [(None, np.arange(bits.shape[1]), 0)]
    chosen += [(k, surprises[surprises + k < bits.shape[1]], k) for k in range(settings.reach + 1)]
    sums = np.zeros((len(chosen), num_blocks, 3))  # of each block: both models' bits, and characters
    for i, (_, places, offset) in enumerate(chosen):
        blocks = places // settings.block  # a character belongs to the block of the surprise before it
        for j, weights in enumerate((*bits[:, places + offset], np.ones(places.size))):
            sums[i, :, j] = np.bincount(blocks, weights, minlength=num_blocks)
    drawn = np.concatenate(list(_draw(sums, settings.resamples, rng)))  # (resamples, comparisons, 3)
    return [
        Comparison(offset, places.size, *_intervals(whole, resampled, settings.confidence))
        for (offset, places, _), whole, resampled in zip(chosen, sums.sum(1), drawn.transpose(1, 0, 2), strict=True)
    ]


def surprising(losses: Floats, share: float) -> npt.NDArray[np.int64]:
    """Places, in order, of that share of `losses` (N,) that is largest, at least one; of equal ones the first."""
    count = max(1, int(share * losses.size))
    return np.sort(np.argsort(-losses, kind="stable")[:count])


def _draw(sums: Floats, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Sums (r, comparisons, 3) over blocks drawn with replacement, some texts at a time."""
    num_blocks = sums.shape[1]
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, resamples - start)
        times = rng.multinomial(num_blocks, np.full(num_blocks, 1 / num_blocks), size)  # (r, blocks)
        yield np.einsum("rb,cbk->rck", times, sums, optimize=True)


def _intervals(whole: Floats, drawn: Floats, confidence: float) -> tuple[Interval, Interval, Interval]:
    """Of the first model, the second, and their difference, from sums (3,) and drawn sums (r, 3)."""
    drawn = drawn[drawn[:, 2] > 0]  # a text drawn without any of the characters has no mean
    edges = [(1 - confidence) / 2, (1 + confidence) / 2]

    def interval(sum_bits: float, drawn_bits: Floats) -> Interval:
        low, high = np.quantile(drawn_bits / drawn[:, 2], edges)
        return Interval(float(sum_bits / whole[2]), float(low), float(high))

    return (
        interval(whole[0], drawn[:, 0]),
        interval(whole[1], drawn[:, 1]),
        interval(whole[0] - whole[1], drawn[:, 0] - drawn[:, 1]),
    )


def analyze_surprise(
    subjects: Sequence[Subject],
    nats: Sequence[Floats],
    settings: SurpriseSettings,
    split: str,
    text: dict[str, object],
    unit: str = "character",
) -> Analysis:
    """The analysis of two models from the nats (N,) that each gives to the same text.

    Args:
        subjects: the two models.
        nats: theirs.
        settings: see `SurpriseSettings`.
        split: what the text is.
        text: what else tells it from others, for the result.
        unit: what its symbols are called.

    Raises:
        ConfigError: a setting is out of range, or does not fit the text.
    """
    compared = compare_surprises(nats[0], nats[1], settings)
    one, two = (subject.label for subject in subjects)
    between = f"{settings.confidence:.0%} interval"
    places = ["all" if c.offset is None else c.offset for c in compared]
    table = Table(
        (Column("after a surprise"), Column(f"{unit}s", ","), Column(f"{one} (bits)", ".3f"),
         Column(f"{two} (bits)", ".3f"), Column("difference (bits)", "+.3f"), Column(between), Column("ratio", ".3f")),
        tuple(
            (place, c.num_characters, c.first.mean, c.second.mean, c.difference.mean,
             f"{c.difference.low:+.3f} to {c.difference.high:+.3f}", c.first.mean / c.second.mean)
            for place, c in zip(places, compared, strict=True)
        ),
    )  # fmt: skip
    details = Table(
        (Column("characters_after_surprise"), Column("num_characters"),
         *(Column(f"{label}_{what}_bits") for label in (one, two, "difference") for what in ("mean", "low", "high"))),
        tuple(
            (place, c.num_characters,
             *(value for i in (c.first, c.second, c.difference) for value in (i.mean, i.low, i.high)))
            for place, c in zip(places, compared, strict=True)
        ),
    )  # fmt: skip
    reading = (
        f"Below 0 in the lower panel {one} has the lower loss; below the gray band of all {unit}s it does better there "
        f"than its overall difference from {two} explains, above the band worse. Bars and band: {between}."
    )
    title = f"The {settings.share:.0%} of {split} {unit}s that surprise {one} and {two} most, and those after them"
    return Analysis("surprise", title, tuple(subjects), table, _draw_comparisons(compared, one, two, title, unit),
                    reading, split, {**text, **asdict(settings)}, details)  # fmt: skip


@style()
def _draw_comparisons(compared: Sequence[Comparison], one: str, two: str, title: str, unit: str) -> "mpl.figure.Figure":
    figure = mpl.figure.Figure(figsize=(7.5, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    overall, *after = compared
    offsets = np.arange(len(after))
    for number, label, intervals, whole in (
        (0, one, [c.first for c in after], overall.first),
        (1, two, [c.second for c in after], overall.second),
    ):
        line, places = series(number).line(), offsets + 0.12 * number - 0.06
        upper.errorbar(places, [i.mean for i in intervals], _bars(intervals), **line, capsize=3, label=label)
        upper.axhline(whole.mean, color=line["color"], linestyle="--", linewidth=1, label=f"{label}: all {unit}s")
    differences = [c.difference for c in after]
    lower.errorbar(offsets, [i.mean for i in differences], _bars(differences), **series(2).line(), capsize=3,
                   label="surprises and after")  # fmt: skip
    band = overall.difference
    lower.axhspan(band.low, band.high, color=MARK, alpha=0.3, linewidth=0)
    lower.axhline(band.mean, color=MARK, label=f"all {unit}s")
    lower.axhline(0, color="black", linewidth=0.8)
    upper.set_ylabel(f"mean loss (bits per {unit})")
    upper.set_ylim(bottom=0)
    lower.set_ylabel(f"{one} minus {two}\n(bits per {unit})")
    lower.set_xlabel(f"{unit}s after a surprise (0: the surprising {unit} itself)")
    lower.set_xticks(offsets)
    upper.legend()
    lower.legend()
    upper.set_title(textwrap.fill(title, 80), fontsize="medium")
    return figure


def _bars(intervals: Sequence[Interval]) -> Floats:
    """Lengths (2, k) of error bars below and above the means."""
    return np.abs(np.array([[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]))


@spread
def surprise(
    first: Run,
    second: Run,
    split: Split = "valid",
    *,
    settings: SurpriseSettings,
    max_characters: MaxCharacters = None,
    stride: Stride = None,
    computing: Computing,
    data: Data = None,
    saving: Saving,
) -> None:
    """Losses on, and just after, the characters that surprise two models most (Krause et al. 2016, figure 3)."""
    models = computing.find([first, second], stride)
    corpus = open_common_corpus(models, data)
    tokens = read_tokens(corpus, split, max_characters)
    settings.check(tokens.size - 1)
    folder = saving.folder(first)
    nats = []
    for model, predictor, progress in computing.predictors(models, len(models) * (tokens.size - 1), stride):
        nats.append(predictor.nats(tokens, None, progress))
        model.check_finite(nats[-1])
    text = {**identify(corpus, models), "num_characters": tokens.size, "stride": stride}
    subjects = [model.subject for model in models]
    analysis = analyze_surprise(subjects, nats, settings, split, text, corpus.vocabulary.unit)
    finish(analysis, folder, saving.picture_format)
