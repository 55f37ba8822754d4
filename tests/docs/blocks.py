"""What the manual's pages hold: fenced blocks, the commands in them, headings, and links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
              if path.is_file())  # fmt: skip
LANGUAGES = ("bash", "yaml", "text", "python")
"""What a fence may say that its block is; blocks of text are shown, and not tried."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    """Of the fence, from 1."""
    language: str
    """What the fence says; empty where it says nothing."""
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a block of Bash, its continued lines joined."""

    line: int
    text: str


def find_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page; a fence that is never closed is an error."""
    found: list[Block] = []
    inside: list[str] | None = None
    start, language = 0, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.lstrip().startswith("```"):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            start, language, inside = number, line.strip()[3:].strip(), []
        else:
            found.append(Block(start, language, "\n".join(inside) + "\n"))
            inside = None
    assert inside is None, f"{page.name}:{start}: the block is never closed"
    return found


def find_commands(block: Block) -> list[Command]:
    """The commands of a block, without comments and empty lines."""
    found: list[Command] = []
    begun = ""
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        if begun and not begun.startswith("#"):
            found.append(Command(number, begun))
        begun = ""
    return found


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[str]:
    """Targets of the links and pictures of a page that lead to files or headings, not to the web."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target for target in targets if "://" not in target]
