"""A model's bytes, made safe for a terminal. Imports no torch."""

import codecs
import re

# A terminal obeys ESC (C0) and CSI (C1) sequences: they could retitle it, move the cursor or fake a prompt.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class TerminalDecoder:
    r"""Turns UTF-8 that comes in pieces into text that can be printed at once.

    A character of several bytes appears only when it is whole. Bytes that are no UTF-8 appear as \xNN, and so do
    control characters except line end and tab (those above 0x7f as \u00NN, which tells them from bytes). A backslash
    stays one, so this is for reading: the exact bytes are not to be had back from it.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")

    def feed(self, data: bytes) -> str:
        """The text that `data` completes; empty inside a character."""
        return _escape(self._decoder.decode(data))

    def finish(self) -> str:
        """What is left of a character cut off at the end. Ready for another text afterwards."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return _escape(rest)


def for_encoding(text: str, encoding: str) -> str:
    """`text` with what a stream's `encoding` cannot hold, such as é in ASCII, as backslash escapes."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escape(text: str) -> str:
    return _CONTROLS.sub(lambda match: _escaped(ord(match[0])), text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
