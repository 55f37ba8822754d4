"""Vocabularies learned from a corpus: from its training text alone, but for sets of symbols that cover it all."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from megachar.corpora.encoding import Recipe, place_of, read_text
from megachar.corpora.plan import SourceFile, units_of
from megachar.data.characters import CharacterVocabulary, PlacedText
from megachar.data.corpus import SPLIT_NAMES, SplitName
from megachar.data.pieces import ModelType, PieceVocabulary
from megachar.data.used_bytes import UsedBytesVocabulary
from megachar.data.vocabulary import Cut, Vocabulary

LearnedName = Literal["used-bytes", "characters", "sentencepiece"]


def learn_vocabulary(
    sources: Sequence[SourceFile],
    recipe: Recipe,
    name: LearnedName,
    size: int | None,
    model_type: ModelType = "unigram",
    bytes_for_others: bool | None = None,
    most_bytes: int | None = None,
) -> Vocabulary:
    """Learn a vocabulary from the first `most_bytes` (None: all) of the training text, or of the first split there is.

    Used bytes, and characters of no given size with no bytes for others, are all that occur in any split, so that they
    cover the whole text. Which symbols a held-out text consists of is all that is learned from it: neither how often
    they come nor in which order, so a figure on that text is hardly the better for it.

    Args:
        sources: the texts and their splits.
        recipe: what the text of the sources is; its vocabulary is not looked at.
        name: what is learned.
        size: tokens; None: as many as there are symbols.
        model_type: of a SentencePiece model.
        bytes_for_others: whether characters that were not learned are written as bytes, or are an error; None: as bytes
            where a size is given, which may leave some out.
        most_bytes: of the training text that is read.

    Raises:
        DataError: the text is no UTF-8, or the size does not fit.
    """
    if name == "used-bytes":
        return UsedBytesVocabulary.learn(text_of(sources, recipe, SPLIT_NAMES, most_bytes, Cut.ANYWHERE))
    if name == "characters":
        others = size is not None if bytes_for_others is None else bytes_for_others
        covers = size is None and not others
        splits = SPLIT_NAMES if covers else _first_split(sources)
        return CharacterVocabulary.learn(text_of(sources, recipe, splits, most_bytes), size, others)
    assert size is not None
    return PieceVocabulary.train(text_of(sources, recipe, _first_split(sources), most_bytes), size, model_type)


def _first_split(sources: Sequence[SourceFile]) -> tuple[SplitName, ...]:
    """Train, or of the splits that are there the first."""
    there = {split for source in sources for split, _ in source.pieces}
    return (next(name for name in SPLIT_NAMES if name in there),)


def text_of(
    sources: Sequence[SourceFile],
    recipe: Recipe,
    splits: Sequence[SplitName],
    most_bytes: int | None = None,
    cut: Cut = Cut.WORDS,
) -> Iterator[PlacedText]:
    """Blocks of the text of these splits, which end where `cut` says."""
    remaining = most_bytes
    for unit in units_of(sources):
        if all(segment.split not in splits for segment in unit.segments):
            continue
        for text in read_text(unit, recipe, cut):
            if unit.segments[text.block.segment].split not in splits:
                continue
            yield text.text, partial(place_of, unit, recipe, text)
            if remaining is not None:
                remaining -= len(text.text)
                if remaining <= 0:
                    return
