"""`megachar analyze`: look into trained models, as the papers do.

Each module of `megachar/analysis/` with a function of its own name is a command.
"""

from importlib import import_module

from megachar.base.discovery import modules_in
from megachar.cli.lazy import make_group

app = make_group("Look into trained models, as the papers do: a table, a picture and a CSV each.")
for _module in modules_in("megachar.analysis"):
    _name = _module.rpartition(".")[2]
    if (_command := getattr(import_module(_module), _name, None)) is not None:
        app.command(_name.replace("_", "-"))(_command)
