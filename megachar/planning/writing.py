"""A layout as a file that `megachar launch` takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from megachar.base.errors import ConfigError
from megachar.base.files import atomic_write
from megachar.config.loading import laid_over
from megachar.config.paths import absolute
from megachar.config.text import escape_interpolations, parse_override
from megachar.planning.layouts import Layout


def write_layout(layout: Layout, source: str, overrides: Sequence[str], path: Path) -> None:
    """Write an experiment that starts from `source`, with these overrides and this layout.

    Args:
        layout: what is set last.
        source: a preset or a YAML file.
        overrides: `section.key=value` strings.
        path: of the file, which must end as an experiment's does.
    """
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--write {path} must end in .yaml, as the file of an experiment does")
    values: dict[str, Any] = {"preset": absolute(source) if source.endswith((".yaml", ".yml")) else source}
    for layer in (*map(parse_override, overrides), _settings(layout)):
        values = laid_over(values, layer)
    text = OmegaConf.to_yaml(OmegaConf.create(escape_interpolations(values)))
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _settings(layout: Layout) -> dict[str, Any]:
    deepspeed = str(layout.deepspeed)
    return {
        "parallel": layout.parallel.model_dump(),
        "batch": {"micro_size": layout.micro_size},
        "deepspeed": absolute(deepspeed) if deepspeed.endswith(".json") else deepspeed,
    }
