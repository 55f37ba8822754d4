"""Texts that commands are given, in an option or in a file, as the bytes they are."""

from pathlib import Path
from typing import Any

import numpy.typing as npt

from megachar.base.errors import ConfigError, DataError
from megachar.data.vocabulary import EncodingError, Vocabulary
from megachar.generation.settings import check_prompt


def read_given(text: str | None, file: Path | None, option: str, file_option: str) -> bytes:
    """The bytes from the one of the two that is given, perhaps none; ConfigError on neither or both."""
    if (text is None) == (file is None):
        given = "both" if text is not None else "neither of them"
        raise ConfigError(f"give {option} TEXT or {file_option} FILE; {given} was given")
    if file is not None:
        return read_file(file, file_option)
    assert text is not None
    return argument_bytes(text)


def read_file(file: Path, option: str) -> bytes:
    """The bytes of the file that `option` names; ConfigError where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {file} cannot be read: {error.strerror}; name a file") from error


def argument_bytes(argument: str) -> bytes:
    """The bytes of a text of the command line: Python has stand-ins for those that are no UTF-8."""
    return argument.encode("utf-8", "surrogateescape")


def read_prompt(prompt: str | None, prompt_file: Path | None) -> bytes:
    """The prompt's bytes from the one of the two that is given; ConfigError on none, both, or an empty one."""
    text = read_given(prompt, prompt_file, "--prompt", "--prompt-file")
    check_prompt(len(text))
    return text


def encode_given(vocabulary: Vocabulary, text: bytes, what: str) -> npt.NDArray[Any]:
    """The symbols (t,) of a text; DataError with `what` it is where the model has none for some of it."""
    try:
        return vocabulary.encode(text)
    except EncodingError as error:
        raise DataError(f"{what}, byte {error.position:,}: {error.problem}; the model has no other symbols: leave that "
                        f"character out, or write another for it") from None  # fmt: skip
