"""What pyproject.toml declares is what the code imports."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest depends on it

ROOT = Path(__file__).parents[1]
FOLDERS = ("megachar", "launcher", "tools")
IMPORTED_BY_OTHERS = {"tensorboard"}  # by torch.utils.tensorboard, and torch does not declare it
DETECTED = {"apex"}  # NVIDIA's, used where it is installed; the package of that name on PyPI is another one
LATER_MODULES = {"compression"}
"""Of the standard library, in Pythons newer than the oldest one we support."""


def normalized(name: str) -> str:
    """The name of a distribution as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> tuple[set[str], set[str]]:
    """Distributions that megachar needs, and those of its extra `mpi`."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = (project["dependencies"], project["optional-dependencies"]["mpi"])
    needed, optional = ({normalized(re.split(r"[^\w.-]", line)[0]) for line in group} for group in groups)
    return needed, optional


def imported() -> Iterator[tuple[str, Path]]:
    """Every module that a file imports by its full name, and the file."""
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((alias.name, path) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module, path


def third_party() -> dict[str, set[str]]:
    """Package that others wrote -> the files that import it."""
    scripts = {path.stem for folder in ("launcher", "tools") for path in (ROOT / folder).glob("*.py")}
    others = {"megachar"} | scripts | DETECTED | LATER_MODULES | sys.stdlib_module_names
    found: dict[str, set[str]] = {}
    for module, path in imported():
        root = module.split(".")[0]
        if root not in others:
            found.setdefault(root, set()).add(path.relative_to(ROOT).as_posix())
    return found


def test_every_import_is_declared() -> None:
    needed, optional = declared()
    distributions = packages_distributions()
    for package, files in third_party().items():
        providers = {normalized(name) for name in distributions.get(package, [package])}
        assert providers & (needed | optional), f"{sorted(files)} import {package} ({providers}), which is not declared"


def test_everything_declared_is_imported() -> None:
    distributions = packages_distributions()
    used = {normalized(name) for package in third_party() for name in distributions.get(package, [package])}
    needed, _ = declared()
    assert needed - used == IMPORTED_BY_OTHERS
