"""Vocabularies learned from a corpus: from the beginning of its training text, and from nothing else."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from megachar.data.characters import CharacterVocabulary, PlacedText
from megachar.data.corpus import SPLIT_NAMES
from megachar.data.pieces import ModelType, PieceVocabulary
from megachar.data.preprocessing.encoding import Recipe, place_of, read_text
from megachar.data.preprocessing.plan import SourceFile, units_of
from megachar.data.vocabulary import Cut, Vocabulary

LearnedName = Literal["characters", "sentencepiece"]


def learn_vocabulary(
    sources: Sequence[SourceFile],
    recipe: Recipe,
    name: LearnedName,
    size: int | None,
    model_type: ModelType = "unigram",
    bytes_for_others: bool = True,
    most_bytes: int | None = None,
) -> Vocabulary:
    """Learn a vocabulary from the first `most_bytes` (None: all) of the training text, or of the first split there is.

    `bytes_for_others`: whether characters that were not learned are written as bytes, or are an error. `recipe` says
    what the text of the sources is; its vocabulary is not looked at. DataError where the text is no UTF-8, or the size
    does not fit.
    """
    texts = training_text(sources, recipe, most_bytes)
    if name == "characters":
        return CharacterVocabulary.learn(texts, size, bytes_for_others)
    assert size is not None
    return PieceVocabulary.train(texts, size, model_type)


def training_text(sources: Sequence[SourceFile], recipe: Recipe, most_bytes: int | None = None) -> Iterator[PlacedText]:
    """Blocks of the text of the first split, each whole UTF-8 words."""
    there = {split for source in sources for split, _ in source.pieces}
    wanted = next(name for name in SPLIT_NAMES if name in there)
    remaining = most_bytes
    for unit in units_of(sources):
        if all(segment.split != wanted for segment in unit.segments):
            continue
        for text in read_text(unit, recipe, Cut.WORDS):
            if unit.segments[text.block.segment].split != wanted:
                continue
            yield text.text, partial(place_of, unit, recipe, text)
            if remaining is not None:
                remaining -= len(text.text)
                if remaining <= 0:
                    return
