"""SentencePiece vocabularies, held to an exact round trip: the text decoded is the text encoded, byte by byte."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from megachar.base.errors import DataError
from megachar.data.characters import NUM_BYTES, PlacedText, invalid_utf8
from megachar.data.vocabulary import Cut, Int64, Unit, checked_tokens, token_dtype

MODEL_NAME = "vocabulary.model"
MOST_MODEL_BYTES: Final = 1 << 28
SPACE = "\u2581"  # what SentencePiece writes for a space
ModelType = Literal["unigram", "bpe", "char"]

# A text is encoded in parts cut after a line end or before a space once this many characters are passed: BPE takes more
# than twice the time for a text of twice the size, and calls for much shorter ones cost more than their encoding.
_PART_CHARACTERS = 128
# The trainer leaves out longer sentences; a text without line ends must still be learned from.
_SENTENCE_BYTES = 4000
_BYTE_PIECES: Final = tuple(f"<0x{value:02X}>" for value in range(NUM_BYTES))


class PieceVocabulary:
    """The pieces of a SentencePiece model with byte fallback and no normalization.

    A piece never spans a line end or a cut before a space (models are trained on lines, and split at spaces), so a text
    may be encoded part by part. U+2581, which stands for the space inside SentencePiece, is always written as bytes.
    """

    name = "sentencepiece"
    unit: Unit = "token"
    cut = Cut.WORDS

    def __init__(self, model: bytes, place: str = "the SentencePiece model") -> None:
        """Take a serialized model; DataError where it is none, or could not give every text back. `place`: its name."""
        import sentencepiece

        self.model = model
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
            num_pieces = self._processor.vocab_size()
            pieces = [self._processor.id_to_piece(token) for token in range(num_pieces)]
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{place} is no SentencePiece model ({error}): give the .model file of one") from None
        _check_exact(model, place)
        self.size = num_pieces
        self.dtype = token_dtype(self.size)
        byte_tokens = {piece: token for token, piece in enumerate(pieces) if self._processor.is_byte(token)}
        self._byte_tokens = [byte_tokens[piece] for piece in _BYTE_PIECES]
        self._texts = [piece.replace(SPACE, " ").encode() for piece in pieces]
        for value, token in enumerate(self._byte_tokens):
            self._texts[token] = bytes([value])
        for token in range(self.size):
            if self._processor.is_control(token) or self._processor.is_unknown(token):
                self._texts[token] = b""  # stands for no text; encoding never gives one

    @classmethod
    def load(cls, path: Path) -> "PieceVocabulary":
        """The vocabulary of a `.model` file; DataError where it is missing or not usable."""
        if not path.is_file():
            raise DataError(
                f"the SentencePiece model {path} does not exist: check its name, or leave it out to train one"
            )
        return cls(path.read_bytes(), str(path))

    @classmethod
    def train(cls, texts: Iterable[PlacedText], size: int, model_type: ModelType) -> "PieceVocabulary":
        """Train a model of about `size` pieces (fewer where the text has not as many) on the lines of `texts`.

        One thread, so that a model is the same everywhere. DataError where a text is no UTF-8 or too short.
        """
        import sentencepiece

        least = NUM_BYTES + 2
        if size < least:
            raise DataError(f"a SentencePiece vocabulary of {size} has no room beside the bytes: use {least} or more")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_sentences(texts), model_writer=model, vocab_size=size, model_type=model_type,
                byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
                remove_extra_whitespaces=False, unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, hard_vocab_limit=False,
                num_threads=1, minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:
            raise DataError(
                f"SentencePiece could not train a {model_type} model of {size} pieces ({error}): "
                "choose another --vocabulary-size or a longer text"
            ) from None
        return cls(model.getvalue(), "the trained SentencePiece model")

    def encode(self, text: bytes) -> npt.NDArray[Any]:
        """Tokens (t,) of `text`; EncodingError where it is not UTF-8."""
        return self.encode_documents(text, np.zeros(0, dtype=np.int64))[0]

    def encode_documents(self, text: bytes, ends: Int64) -> tuple[npt.NDArray[Any], Int64]:
        """Tokens (t,) of documents one after another, and where each ends in them, (documents,)."""
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise invalid_utf8(text, error) from None
        parts: list[str] = []
        last_parts = np.empty(ends.size, dtype=np.int64)
        start = 0
        for document, end in enumerate(ends.tolist()):
            parts.extend(_parts(text[start:end].decode()))
            last_parts[document] = len(parts)
            start = end
        parts.extend(_parts(text[start:].decode()))
        arrays = [self._encode_part(part) for part in parts] if SPACE in "".join(parts) else self._encode_parts(parts)
        token_ends = np.cumsum([0, *(array.size for array in arrays)], dtype=np.int64)
        tokens = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
        return tokens.astype(self.dtype), token_ends[last_parts]

    def _encode_parts(self, parts: list[str]) -> list[npt.NDArray[np.int32]]:
        return self._processor.encode(parts, return_type="numpy", num_threads=1) if parts else []

    def _encode_part(self, part: str) -> npt.NDArray[np.int32]:
        """Tokens (t,) of a text that may hold U+2581, which the library would take for a space."""
        marker = np.array([self._byte_tokens[value] for value in SPACE.encode()], dtype=np.int32)
        arrays: list[npt.NDArray[np.int32]] = []
        for number, run in enumerate(part.split(SPACE)):
            arrays.extend([marker] if number else [])
            arrays.extend(self._encode_parts([run]) if run else [])
        return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)

    def decode(self, tokens: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The text of `tokens` (t,), without control pieces; DataError on one outside the vocabulary."""
        texts = self._texts
        return b"".join([texts[token] for token in checked_tokens(tokens, self.name, self.size).tolist()])

    def card(self) -> dict[str, Any]:
        """The name, the size, and the hash of the model."""
        return {"name": self.name, "size": self.size, "model_sha256": hashlib.sha256(self.model).hexdigest()}

    def files(self) -> dict[str, bytes]:
        """The model."""
        return {MODEL_NAME: self.model}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its model: the processor itself cannot cross to another process."""
        return type(self), (self.model,)


def _check_exact(model: bytes, place: str) -> None:
    """DataError unless decoding gives back every text: no normalization, no added or removed space, byte fallback."""
    from sentencepiece import sentencepiece_model_pb2

    parsed = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    parsed.ParseFromString(model)
    normalizer = parsed.normalizer_spec
    problems = [
        what
        for what, wrong in (
            ("it has no byte fallback", not parsed.trainer_spec.byte_fallback),
            (f"it normalizes text ('{normalizer.name}')", bool(normalizer.precompiled_charsmap)),
            ("it adds a space before the text", normalizer.add_dummy_prefix),
            ("it removes spaces", normalizer.remove_extra_whitespaces),
            ("it leaves spaces unescaped", not normalizer.escape_whitespaces),
            ("it writes the space after a word", parsed.trainer_spec.treat_whitespace_as_suffix),
        )
        if wrong
    ]
    if problems:
        raise DataError(
            f"{place} cannot give back every text as it was: {', '.join(problems)}. Train one here (--vocabulary "
            "sentencepiece without --model), or with --byte_fallback --normalization_rule_name=identity "
            "--add_dummy_prefix=false --remove_extra_whitespaces=false"
        )


def _parts(text: str) -> list[str]:
    """Cut a text after line ends, or before spaces where it has none, into parts of some thousand characters."""
    parts, start = [], 0
    while len(text) - start > _PART_CHARACTERS:
        least = start + _PART_CHARACTERS
        line = text.find("\n", least, least + _PART_CHARACTERS) + 1
        cut = line or max(text.find(" ", least), 0) or len(text)
        parts.append(text[start:cut])
        start = cut
    if start < len(text):
        parts.append(text[start:])
    return parts


def _sentences(texts: Iterable[PlacedText]) -> Iterable[str]:
    """Lines without their ends; longer ones in parts that begin with a space where they can."""
    for text, place in texts:
        try:
            lines = text.decode().split("\n")
        except UnicodeDecodeError as error:
            wrong = invalid_utf8(text, error)
            raise wrong.at(place(wrong.position)) from None
        for line in lines:
            yield from _short_sentences(line)


def _short_sentences(line: str) -> Iterable[str]:
    most = _SENTENCE_BYTES // 4  # characters; UTF-8 needs at most 4 bytes for one
    start = 0
    while len(line) - start > most:
        cut = line.rfind(" ", start + 1, start + most)
        cut = cut if cut > start else start + most
        yield line[start:cut]
        start = cut
    if start < len(line):
        yield line[start:]
