"""Tables that fit any width: lines fold between words, and where the words are too long, each row becomes a block."""

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

FRAME = 3
"""What a column takes beside its text: a line and a space on either side. The last one has a line more."""


def print_table(table: Table, console: Console) -> None:
    """Print a table so that no word of it is cut or broken: names and hashes stay whole, to be read and copied.

    Args:
        table: of strings and Texts, in the box that is the default.
        console: of any width; a word that is longer than a line is left to the terminal to fold.
    """
    headers = [_text(column.header, console) for column in table.columns]
    rows = [[_text(cell, console) for cell in row] for row in zip(*(c.cells for c in table.columns), strict=True)]
    footers = [[_text(column.footer, console) for column in table.columns]] if table.show_footer else []
    shown = [*([headers] if table.show_header else []), *rows, *footers]
    unbroken = [column.no_wrap for column in table.columns]
    widths = fit_widths([list(cells) for cells in zip(*shown, strict=True)], unbroken, console.width)
    title, caption, table.title, table.caption = table.title, table.caption, None, None
    if title is not None:
        _print_folded(_text(title, console), console)
    if widths is None:
        if len(headers) == 2:  # one thing a line: names and what they are
            for name, what in shown:
                _print_folded(Text.assemble(name, ": ", what) if what.plain else name, console, indent=2)
        else:
            _print_blocks(headers, [*rows, *footers], console)
    elif shown:
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        console.print(table, crop=False)
    if caption is not None:
        _print_folded(_text(caption, console), console)


def fits(table: Table, console: Console) -> bool:
    """Whether `print_table` prints it as a table, and not each row as a block."""
    cells = [[_text(cell, console) for cell in (*([column.header] * table.show_header), *column.cells)]
             for column in table.columns]  # fmt: skip
    return fit_widths(cells, [column.no_wrap for column in table.columns], console.width) is not None


def fit_widths(columns: Sequence[Sequence[Text]], unbroken: Sequence[bool], room: int) -> list[int] | None:
    """The width of each column of cells in a table of `room` characters; None where the longest words do not fit."""
    wanted = [max((cell_len(line) for cell in cells for line in cell.plain.splitlines()), default=0)
              for cells in columns]  # fmt: skip
    widths = [whole if one_line else max((cell_len(word) for cell in cells for word in cell.plain.split()), default=0)
              for cells, whole, one_line in zip(columns, wanted, unbroken, strict=True)]  # fmt: skip
    spare = room - 1 - FRAME * len(widths) - sum(widths)
    if spare < 0:
        return None
    for _ in range(min(spare, sum(wanted) - sum(widths))):  # to the column that folds most
        most = max(range(len(widths)), key=lambda number: wanted[number] / max(widths[number], 1))
        widths[most] += 1
    return widths


def _print_blocks(headers: Sequence[Text], rows: Sequence[Sequence[Text]], console: Console) -> None:
    """Each row as a block of lines, `column: value`; what is empty is left out."""
    for number, row in enumerate(rows):
        if number:
            console.print()
        for header, cell in zip(headers, row, strict=True):
            if cell.plain.strip():
                name = Text.assemble(header, ": ") if header.plain else Text()
                _print_folded(name + cell, console, indent=2)


def _print_folded(text: Text, console: Console, indent: int = 0) -> None:
    """Fold between words only, and set in what follows the first line."""
    lines = [part for line in text.split("\n") for part in _fold(line, console.width - indent)]
    for number, line in enumerate(lines):
        console.print(Text(" " * indent * (number > 0)) + line, soft_wrap=True)


def _fold(line: Text, width: int) -> Iterator[Text]:
    """Parts of a line. Rich breaks, cuts, or does not fold at all where a word is longer than the width."""
    starts, used = [], 0
    for word in re.finditer(r"\S+\s*", line.plain):
        if used and used + cell_len(word[0].rstrip()) > width:
            starts.append(word.start())
            used = 0
        used += cell_len(word[0])
    for part in line.divide(starts):
        part.rstrip()
        yield part


def _text(cell: RenderableType | None, console: Console) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell or ""))
