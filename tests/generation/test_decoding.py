"""Text appears as soon as its characters are whole, and no bytes of a model can take over the terminal."""

import numpy as np

from megachar.generation.decoding import TerminalDecoder, for_encoding

OBEYED = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]


def shown(data: bytes) -> list[str]:
    """What appears after each byte, and at the end."""
    decoder = TerminalDecoder()
    return [*(decoder.feed(bytes([byte])) for byte in data), decoder.finish()]


def test_characters_appear_when_whole() -> None:
    assert shown("aé€😀".encode()) == ["a", "", "é", "", "", "€", "", "", "", "😀", ""]


def test_a_cut_character_is_shown_at_the_end() -> None:
    assert shown("€".encode()[:2]) == ["", "", r"\xe2\x82"]
    decoder = TerminalDecoder()
    decoder.feed(b"\xe2")
    assert decoder.finish() == r"\xe2"
    assert decoder.feed(b"a") + decoder.finish() == "a"


def test_bytes_that_are_no_utf8() -> None:
    assert "".join(shown(b"a\xffb\xc3(\x80")) == r"a\xffb\xc3(\x80"
    assert "".join(shown(b"\xed\xa0\x80")) == r"\xed\xa0\x80"  # a surrogate
    assert "".join(shown(b"\xc1\x9b")) == r"\xc1\x9b"  # an over-long form


def test_terminal_sequences_are_not_obeyed() -> None:
    assert "".join(shown(b"\x1b[2J\x1b]0;title\x07")) == r"\x1b[2J\x1b]0;title\x07"
    assert "".join(shown("\x9b31m".encode())) == r"\u009b31m"  # CSI in one character
    assert "".join(shown(b"a\r\nb\tc\x08\x7f\x00")) == r"a\x0d" + "\nb\tc" + r"\x08\x7f\x00"


def test_random_bytes_are_safe_whatever_the_pieces(rng: np.random.Generator) -> None:
    for _ in range(200):
        data = rng.integers(0, 256, size=int(rng.integers(0, 60))).astype(np.uint8).tobytes()
        text = "".join(shown(data))
        assert not any(control in text for control in OBEYED), data
        text.encode("utf-8")  # no lone surrogates
        whole = TerminalDecoder()
        assert text == whole.feed(data) + whole.finish()


def test_good_text_is_unchanged(rng: np.random.Generator) -> None:
    codes = rng.integers(0xA0, 0x11_0000, size=500)
    text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000) + "\n\tab\\"
    assert "".join(shown(text.encode())) == text


def test_streams_that_are_not_utf8() -> None:
    assert for_encoding("aé€", "ascii") == r"a\xe9\u20ac"
    assert for_encoding("aé€", "latin-1") == r"aé\u20ac"
    assert for_encoding("aé€", "utf-8") == "aé€"
