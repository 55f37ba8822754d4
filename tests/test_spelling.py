"""What people read is American English: the manual, messages, help texts."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BRITISH = re.compile(
    r"colour|behaviour|favour|neighbour|honour|licence|\bcentred?\b|analys(e|ed|ing)\b|\bgrey\b|(label|model|travel)l(ed|ing)\b"
    r"|(initial|normal|optim|organ|recogn|serial|summar|general|token|random|minim|maxim|synchron|visual|util|custom"
    r"|standard|penal)is(e[ds]?|ing|ation|er)\b",
    re.IGNORECASE,
)
STIFF = re.compile(r"\b(go|goes|going) on (with|by|from|without)\b")
"""Where a native would say continue."""


def readable() -> Iterator[tuple[str, str]]:
    """Where text stands, and the text: pages of the manual, strings that are no docstrings, help texts of commands."""
    for page in (*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"):
        yield page.name, page.read_text(encoding="utf-8")
    for path in [*(ROOT / "megachar").rglob("*.py"), *(ROOT / "launcher").glob("*.py")]:
        tree, is_command = ast.parse(path.read_text(encoding="utf-8")), path.parent.name == "cli"
        notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and (is_command or id(node) not in notes):
                yield f"{path.name}:{node.lineno}", node.value


def test_spelling_and_words_are_american() -> None:
    found = [(place, match[0]) for place, text in readable() for pattern in (BRITISH, STIFF)
             for match in pattern.finditer(text)]  # fmt: skip
    assert not found
