"""The table of layers of the design: who may import whom, which imports stay light, how long things may get."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "megachar"
ROW = re.compile(r"\| (\d+) \| ((?:`[\w/*]+`(?:, )?)+) \|")
FLOORS = {
    name: int(floor)
    for floor, names in ROW.findall((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))
    for name in re.findall(r"[\w/*]+", names)
}
"""Folder or file under megachar/, in which `*` is any name -> number, from the table of floors."""
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 70
MIN_WORDS = 5

FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for folder in ("launcher", "tools") for path in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def name_of(path: Path) -> str:
    """Path to a file -> path from the repository's root, to show."""
    return path.relative_to(ROOT).as_posix()


def component_of(module: str) -> str:
    """`megachar.config.loading` -> `config`; `megachar` -> ``."""
    return [*module.split("."), ""][1]


def room_of(module: str) -> str:
    """The most specific name in the table of floors for a module; empty where there is none.

    `megachar.families.transformer.model` -> `families/*`, and `megachar.families.model` -> `families`.
    """
    path = "/".join(module.split(".")[1:])
    fitting = [name for name in FLOORS if re.match(f"{name.replace('*', '[a-z_]+')}(/|$)", path)]
    if "families/*" in fitting and f"{module.rpartition('.')[0]}" == "megachar.families":
        fitting.remove("families/*")
    return max(fitting, key=lambda name: (name.count("/"), "*" not in name), default="")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions and under TYPE_CHECKING; relative imports made whole."""
    package = module_of(path) if path.stem == "__init__" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from megachar.config import loading` names a module in its second half.
            inner = {f"{base}.{alias.name}" for alias in node.names} & MODULES
            yield from [base, *inner]


def roots_of(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    return {module.split(".")[0] for module in imports_of(path)}


def test_imports_come_from_lower_layers() -> None:
    offenders = []
    for path in FILES:
        own = room_of(module_of(path))
        if not own and component_of(module_of(path)):
            offenders.append(f"{name_of(path)} is in none of the table's folders")
            continue
        for module in imports_of(path):
            other = room_of(module)
            if not component_of(module) or module.split(".")[0] != "megachar" or other == own:
                continue
            if not other:
                offenders.append(f"{name_of(path)} imports {module}, which is in none of the table's folders")
            elif FLOORS[other] >= FLOORS.get(own, 0):
                offenders.append(f"{name_of(path)} (floor {FLOORS.get(own, 0)}) imports {module} ({FLOORS[other]})")
    assert not offenders, "\n".join(offenders)


def test_families_do_not_know_each_other() -> None:
    families = {path.name for path in (PACKAGE / "families").iterdir() if path.is_dir()} - {"__pycache__"}
    offenders = [
        (name_of(path), module)
        for family in families
        for path in (PACKAGE / "families" / family).glob("*.py")
        for module in imports_of(path)
        if module.startswith("megachar.families.") and module.split(".")[2] in families - {family}
    ]
    assert not offenders


def test_only_families_ask_which_family_a_model_is_of() -> None:
    """Elsewhere the settings and the parts of a family answer."""
    offenders = [
        name_of(path)
        for path in FILES
        if component_of(module_of(path)) != "families"
        and re.search(r"isinstance\([^)]*(Transformer|Recurrent)", path.read_text(encoding="utf-8"))
    ]
    assert not offenders


def test_only_parallel_imports_deepspeed() -> None:
    elsewhere = [path for path in FILES + SCRIPTS if PACKAGE / "parallel" not in path.parents]
    assert not [name_of(path) for path in elsewhere if "deepspeed" in roots_of(path)]


def test_matplotlib_is_imported_in_one_place() -> None:
    """And by the charts of a report, which come after torch."""
    homes = ["megachar/base/mpl.py", "megachar/report/charts.py"]
    assert [name_of(path) for path in FILES if "matplotlib" in roots_of(path)] == homes


def test_nothing_imports_scripts() -> None:
    assert not [name_of(path) for path in FILES if {"launcher", "tools", "tests"} & roots_of(path)]


def test_no_cycles() -> None:
    modules = {module_of(path): set(imports_of(path)) for path in FILES}
    finished: set[str] = set()

    def visit(module: str, chain: tuple[str, ...]) -> None:
        assert module not in chain, " -> ".join((*chain, module))
        if module not in finished:
            for other in modules[module] & modules.keys():
                visit(other, (*chain, module))
            finished.add(module)

    for module in modules:
        visit(module, ())


def test_nothing_grows_too_long() -> None:
    offenders = []
    for path in FILES + SCRIPTS:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines >= MAX_FILE_LINES:
            offenders.append(f"{name_of(path)} has {lines} lines")
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length >= MAX_FUNCTION_LINES:
                    offenders.append(f"{name_of(path)}: {node.name} has {length} lines")
    assert not offenders, "\n".join(offenders)


def test_every_file_of_tests_says_what_it_shows() -> None:
    """In the first line of its docstring, whose words are a sentence."""
    offenders = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        first = (ast.get_docstring(tree_of(path)) or "").partition("\n")[0]
        if len(first.split()) < MIN_WORDS or first[-1] not in ".:":
            offenders.append(f"{name_of(path)}: {first!r}")
    assert not offenders, "\n".join(offenders)


def test_no_globals_are_assigned() -> None:
    assert not [
        (name_of(path), node.names)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Global)
    ]


WRITERS_OF_JSON = {
    "megachar/base/files.py": "json_text, by which all others write",
    "megachar/base/strict_json.py": "checksum: hashed, of what was read as strict JSON",
    "megachar/analysis/result.py": "hashed for the name of a file, which stays what it was",
    "megachar/report/setting_rows.py": "shown to people, never read",
    "megachar/sweeps/sweep.py": "words of a command line and of a folder's name",
}
"""Files that call json.dumps themselves, and for what; it writes NaN and Infinity, which are no JSON."""


def test_json_is_written_by_the_writer_that_knows_no_nan() -> None:
    found = set()
    for path in FILES + SCRIPTS:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "json":
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "json":
                names = {node.attr}
            else:
                continue
            if names & {"dump", "dumps", "JSONEncoder"}:
                found.add(name_of(path))
    assert found == WRITERS_OF_JSON.keys(), "use megachar.base.files.json_text"


def light_modules() -> list[str]:
    """Modules that must import neither torch nor deepspeed."""
    light = {"", "analysis", "base", "config", "corpora", "data", "watch", "launching", "planning", "runs", "scaling",
             "sweeps", "cli"}  # fmt: skip
    modules = {module_of(path) for path in FILES if component_of(module_of(path)) in light}
    modules |= {module for module in MODULES if re.fullmatch(r"megachar\.optimizers\.\w+", module)}
    of_families = (
        r"megachar\.families\.(counting|costs|parameters|\w+\.(settings|parameters|counting|costs|checks|corpus))"
    )
    modules |= {module for module in MODULES if re.fullmatch(of_families, module)}
    others = ("losses.auxiliary", "parallel.topology", "report.output", "report.setting_rows", "report.text_settings",
              "selftest.findings", "training.watching")  # fmt: skip
    modules |= {f"megachar.{name}" for name in others}
    heavy = (
        "base.device",
        "runs.versions",
        "scaling.coordinates",
        "scaling.speed",
        *(f"runs.checkpoints.{name}" for name in ("exporting", "files", "reading", "resuming", "saving")),
    )
    return sorted(modules - {f"megachar.{name}" for name in (*heavy, "optimizers.updates")})


HEAVY = ("torch", "deepspeed", "matplotlib")
REFUSE_HEAVY = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in REFUSED:
            raise RuntimeError(f"imports {name}")  # no ImportError, which might be caught

sys.meta_path.insert(0, Refuse())
"""


def run_without_heavy(code: str, *arguments: str, refused: tuple[str, ...] = HEAVY) -> list[str]:
    """Lines that the code prints in a Python of its own, where importing what is refused raises RuntimeError."""
    command = [sys.executable, "-c", f"REFUSED = {refused!r}\n{REFUSE_HEAVY}{code}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_light_modules_import_neither_torch_nor_deepspeed() -> None:
    code = """
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except RuntimeError as error:
        print(module, error)
"""
    offenders = run_without_heavy(code, *light_modules())
    assert not offenders, "\n".join(offenders)


LIGHT_COMMANDS = {
    "--help": 0,
    "count t64": 0,
    "plan t64 --devices 64": 0,
    "plan t64 --device nothing": 2,
    "presets": 0,
    "launch t13": 2,
    "launch t64 parallel.pipe=65": 2,
    "launch t64 data.path=/nowhere": 2,
    "sweep ablation data.path=/nowhere --dry-run": 2,
    "evaluate /nowhere": 2,
    "generate /nowhere --prompt a": 2,
    "compare /nowhere": 2,
    "plot /nowhere": 2,
    "report /nowhere": 2,
    "analyze ablation /nowhere": 2,
    "analyze sizes /nowhere": 2,
    "analyze context /nowhere": 2,
    "analyze layers /nowhere": 2,
    "scaling --help": 0,
    "scaling fit --help": 0,
    "scaling fit /nowhere": 2,
    "scaling predict /nowhere --compute 1e12": 2,
    "scaling plot /nowhere": 2,
    "checkpoint inspect /nowhere": 2,
    "checkpoint verify /nowhere": 2,
    "checkpoint export /nowhere --output /nowhere.safetensors": 2,
}
"""Command line -> exit status."""


def test_light_commands_import_neither_torch_nor_deepspeed() -> None:
    """Nor SciPy, which takes a good part of a second."""
    code = """
from megachar.cli import main

for line in sys.argv[1:]:
    sys.argv = ["megachar", *line.split()]
    ended = 0
    try:
        main()
    except SystemExit as stop:
        ended = stop.code
    except RuntimeError as error:
        ended = error
    print("ENDED", line, "->", ended)
"""
    lines = run_without_heavy(code, *LIGHT_COMMANDS, refused=(*HEAVY, "scipy"))
    ended = [line for line in lines if line.startswith("ENDED")]
    assert ended == [f"ENDED {line} -> {status}" for line, status in LIGHT_COMMANDS.items()]
