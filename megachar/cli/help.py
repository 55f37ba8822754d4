"""The text of --help: as wide as the terminal and no wider, folded between words only."""

import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

import typer

MAX_WIDTH = 78
"""Of lines that are easy to read."""
MIN_WIDTH = 30

_Formatter: Any = typer.Context.formatter_class


class HelpFormatter(_Formatter):
    """Typer's own takes 50 columns at least, and breaks words at hyphens, those of options too."""

    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        room = shutil.get_terminal_size().columns - 2
        super().__init__(indent_increment, width or max(min(room, MAX_WIDTH), MIN_WIDTH), max_width)

    def write_text(self, text: str) -> None:
        """Write paragraphs. One that begins with a line of `\\b` keeps its lines, which are examples."""
        margin, paragraphs = " " * self.current_indent, []
        for paragraph in text.split("\n\n"):
            kept = paragraph.removeprefix("\b\n")
            lines = [paragraph] if kept == paragraph else kept.splitlines()
            folded = [part for line in lines for part in _fold(line, self.width - len(margin))]
            paragraphs.append("".join(f"{margin}{line}\n" for line in folded))
        self.write("\n".join(paragraphs))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names and what each is, side by side; names of more than two fifths of a line have one of their own."""
        rows, margin = list(rows), " " * self.current_indent
        widest = min(max((len(name) for name, _ in rows), default=0), col_max, self.width * 2 // 5)
        indent = margin + " " * (widest + col_spacing)
        for name, text in rows:
            lines = _fold(text, self.width - len(indent))
            if len(name) <= widest and lines:
                name = name.ljust(widest + col_spacing) + lines.pop(0)
            self.write("\n".join([margin + name, *(indent + line for line in lines)]) + "\n")


def _fold(text: str, width: int) -> list[str]:
    """Lines of up to `width`. A command, which is set in, goes on after a backslash, so that it can be copied."""
    if not text.startswith(" "):
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    lines = textwrap.wrap(text, width - 2, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return [*(f"{line} \\" for line in lines[:-1]), *lines[-1:]]


class HelpContext(typer.Context):
    """Of a command whose help this is."""

    formatter_class = HelpFormatter
