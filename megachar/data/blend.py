"""Several corpora mixed by weight, exactly over any prefix of the run, and with no state.

Shares a_i / D (whole numbers that add up to D) repeat after D windows, so one period tells for every window, by its
number alone, which corpus it comes from and how many windows of that corpus went before. In the period, windows are
given out by the earliest deadline: window number j of corpus i (from 0) may come once j < (w + 1) a_i / D, and is due
by (j + 1) D / a_i. Then after any w windows, corpus i has had more than w a_i / D - 1 and less than w a_i / D + 1 of
them (Tijdeman 1980, "The chairman assignment problem"; Baruah et al. 1996, "Proportionate progress").
"""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megachar.base.errors import ConfigError, DataError
from megachar.config.sections.data import DataConfig
from megachar.data.corpus import Corpus, SplitName
from megachar.data.sampler import Int64, UInt64
from megachar.data.vocabulary import Vocabulary

MAX_PERIOD = 1 << 16


class BlendPattern:
    """Which corpus each window of the run comes from: a function of the window's number."""

    def __init__(self, weights: Sequence[Fraction]) -> None:
        """`weights` (k,) > 0, in any unit: 7 and 3 are 0.7 and 0.3.

        ConfigError where their shares repeat only after more than 65,536 windows.
        """
        total = sum(weights, Fraction(0))
        assert all(weight > 0 for weight in weights), weights
        self.shares = tuple(weight / total for weight in weights)
        """Share of each corpus: exact, adding up to 1."""
        self.period = math.lcm(*(share.denominator for share in self.shares))
        """Windows after which the pattern repeats, D."""
        if self.period > MAX_PERIOD:
            near = [max(1, round(1000 * share)) for share in self.shares]
            given = ", ".join(f"{float(weight):.12g}" for weight in weights)
            raise ConfigError(
                f"the weights {given} of data.blend mix exactly only over {self.period:,} windows, and at most "
                f"{MAX_PERIOD:,} are kept in memory: give fewer digits, such as {', '.join(map(str, near))}"
            )
        self.per_period = np.array([int(share * self.period) for share in self.shares], dtype=np.int64)
        """Windows of each corpus in a period, a_i: (k,)."""
        self._corpora = _earliest_deadline_first(self.per_period)  # (D,)
        one_hot = self._corpora[:, None] == np.arange(len(weights))  # (D, k)
        self._before = np.concatenate([np.zeros((1, len(weights)), np.int64), np.cumsum(one_hot, axis=0)])  # (D + 1, k)
        self._number = self._before[np.arange(self.period), self._corpora]  # (D,)

    def __call__(self, windows: UInt64) -> tuple[Int64, UInt64]:
        """Of each window (b,) of the blend: the number of its corpus, and its own number in that corpus, (b,) each."""
        periods, places = np.divmod(windows, np.uint64(self.period))
        corpora = self._corpora[places]
        numbers = periods * self.per_period[corpora].astype(np.uint64) + self._number[places].astype(np.uint64)
        return corpora, numbers

    def counts(self, num_windows: int) -> Int64:
        """Windows of each corpus (k,) among the first `num_windows`; less than one off `num_windows` x its share."""
        periods, place = divmod(num_windows, self.period)
        return periods * self.per_period + self._before[place]


def _earliest_deadline_first(per_period: Int64) -> npt.NDArray[np.int64]:
    """The corpus of each window of a period (D,), as the head of this file says."""
    period = int(per_period.sum())
    corpora, given = np.empty(period, dtype=np.int64), np.zeros_like(per_period)
    for window in range(period):
        may_come = given * period < (window + 1) * per_period
        deadlines = np.where(may_come, (given + 1) / per_period, np.inf)
        chosen = int(np.argmin(deadlines))
        corpora[window] = chosen
        given[chosen] += 1
    return corpora


class Blend:
    """The corpora an experiment reads, one or several, opened; `Blend.open` is the way in."""

    def __init__(self, corpora: Sequence[Corpus], pattern: BlendPattern) -> None:
        self.corpora, self.pattern = tuple(corpora), pattern

    @classmethod
    def open(cls, config: DataConfig) -> "Blend":
        """Open every corpus of the experiment's `data` section.

        ConfigError where none is named, the weights do not fit, or two corpora have different vocabularies; DataError
        where one is missing or damaged, or has a valid split that another lacks.
        """
        parts = config.parts
        if not parts:
            raise ConfigError(
                "data.path is not set; name the folder of a prepared corpus, such as data.path=data/enwik8 "
                "(megachar corpus prepare TEXT --output FOLDER makes one), or several in data.blend"
            )
        # Through its text, because a float's own fraction is that of its binary digits: 0.1 is meant to be 1/10.
        pattern = BlendPattern([Fraction(str(part.weight)) for part in parts])
        blend = cls([Corpus.open(Path(part.path)) for part in parts], pattern)
        blend._check_alike()
        return blend

    @property
    def vocabulary(self) -> Vocabulary:
        """That of every corpus."""
        return self.corpora[0].vocabulary

    @property
    def split_names(self) -> tuple[SplitName, ...]:
        """The splits that every corpus has, in the order train, valid, test."""
        names = self.corpora[0].split_names
        return tuple(name for name in names if all(name in corpus.split_names for corpus in self.corpora))

    @property
    def description(self) -> str:
        """The folders, with their shares where there are several."""
        if len(self.corpora) == 1:
            return str(self.corpora[0].folder)
        shares = (f"{float(share):.4g}" for share in self.pattern.shares)
        return " + ".join(f"{share} {corpus.folder}" for share, corpus in zip(shares, self.corpora, strict=True))

    @property
    def fingerprint(self) -> str:
        """16 hex digits: equal on two hosts exactly when they read the same corpora in the same shares."""
        if len(self.corpora) == 1:
            return self.corpora[0].fingerprint
        shares = map(str, self.pattern.shares)
        parts = [f"{corpus.fingerprint} {share}" for corpus, share in zip(self.corpora, shares, strict=True)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def check_unchanged(self) -> None:
        """`DataError` where a file of any corpus is not the one that was opened."""
        for corpus in self.corpora:
            corpus.check_unchanged()

    def _check_alike(self) -> None:
        first = self.corpora[0]
        for other in self.corpora[1:]:
            if other.card.vocabulary != first.card.vocabulary:
                ours, theirs = str(first.card.vocabulary), str(other.card.vocabulary)
                same = "another " if ours == theirs else ""
                raise ConfigError(
                    f"data.blend mixes different vocabularies: {first.folder} has {ours}, {other.folder} has "
                    f"{same}{theirs}; prepare them with one vocabulary, or train on one of them"
                )
        having = [corpus for corpus in self.corpora if "valid" in corpus.split_names]
        if having and len(having) < len(self.corpora):
            lacking = next(corpus for corpus in self.corpora if corpus not in having)
            raise DataError(
                f"data.blend validates on all of its corpora or on none: {having[0].folder} has a valid split, "
                f"{lacking.folder} has none; prepare that one again with --split 90,5,5"
            )
