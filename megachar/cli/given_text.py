"""Texts that commands are given, in an option or in a file, as the bytes they are."""

from pathlib import Path

from megachar.errors import ConfigError


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
