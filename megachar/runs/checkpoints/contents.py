"""What a checkpoint may say, and which files it has: all that is known without looking at them. Imports no torch."""

import math
import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import ValidationError

from megachar.config.engine import SCALER_KEYS
from megachar.config.experiment import FAMILIES, OPTIMIZERS, Experiment
from megachar.config.sections.model import ModelConfig
from megachar.data.pieces import MODEL_NAME
from megachar.data.vocabulary_card import VocabularyCard
from megachar.families.parameters import layer_names

_COUNTS: Final = ("skipped_batches", "consecutive", "last_bad", "since_lowest", "windows")
_AMOUNTS: Final = ("seconds", "flops")
_FIGURES: Final = ("losses", "norms")
_STREAMS: Final = re.compile(r"streams/\d{6,12}\.safetensors")


def finite_or_none(value: Any) -> Any:
    """None in place of a number that JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_scaler(values: dict[str, float]) -> dict[str, float]:
    """`values`, a state of the loss scaling; ValueError where it cannot be one."""
    for name, value in values.items():
        if name not in SCALER_KEYS:
            raise ValueError(f"{name!r} is nothing of a loss scaling's; it has {', '.join(SCALER_KEYS)}")
        if not math.isfinite(value) or value < -1 or (name == "cur_scale" and value <= 0):
            raise ValueError(f"{name} = {value} is no state of a loss scaling")
    return values


def check_loop_state(values: dict[str, Any]) -> dict[str, Any]:
    """`values`, which the training loop had kept; ValueError where what it knows cannot be so."""
    for name in _COUNTS:
        if name in values and not _is_count(values[name]):
            raise ValueError(f"{name} = {values[name]!r:.40} is no count")
    for name in _AMOUNTS:
        if name in values and not (_is_figure(values[name]) and values[name] >= 0):
            raise ValueError(f"{name} = {values[name]!r:.40} is no amount")
    for name in _FIGURES:
        figures = values.get(name, [])
        if not isinstance(figures, list) or not all(_is_figure(figure) for figure in figures):
            raise ValueError(f"{name} = {figures!r:.40} are no finite numbers")
    lowest = values.get("lowest_validation")
    if lowest is not None and not _is_figure(lowest):
        raise ValueError(f"lowest_validation = {lowest!r:.40} is no finite number")
    return values


def problem_of_identity(saved: dict[str, Any], now: dict[str, Any] | None) -> str | None:
    """What is wrong with what must stay the same, as a manifest says it; `now`: as its settings do, where it has any.

    Only what both name is compared: an older megachar may have known other settings.
    """
    for key in ("model", "auxiliary"):
        if not isinstance(saved.get(key), dict):
            return f"its experiment has no {key}"
    if saved.get("optimizer") not in OPTIMIZERS.sections:
        return f"its experiment has the optimizer {saved.get('optimizer')!r:.40}"
    if now is None:
        return None
    for key in ("model", "auxiliary"):
        for name in saved[key].keys() & now[key].keys():
            if saved[key][name] != now[key][name]:
                return (
                    f"its experiment has {key}.{name} = {saved[key][name]!r:.40}, its settings {now[key][name]!r:.40}"
                )
    if saved["optimizer"] != now["optimizer"]:
        return f"its experiment has the optimizer {saved['optimizer']}, its settings {now['optimizer']}"
    return None


def model_of(saved: dict[str, Any]) -> ModelConfig:
    """The model of a manifest that holds no settings, by what must stay the same of it; ValueError where it is none."""
    settings = saved["model"].keys()
    section = max(FAMILIES.sections.values(), key=lambda family: len(family.model_fields.keys() & settings))
    known = {name: value for name, value in saved["model"].items() if name in section.model_fields}
    try:
        return section.model_validate(known)
    except ValidationError as error:
        raise ValueError(f"its experiment is no model ({error.errors()[0]['msg']})") from None


def problem_of_names(
    names: Iterable[str], model: ModelConfig, experiment: Experiment | None, vocabulary: VocabularyCard | None
) -> str | None:
    """What is wrong with a checkpoint's list of files: it has exactly those of its model's layers, and nothing else.

    Args:
        names: paths inside the folder.
        model: of the checkpoint.
        experiment: of the checkpoint, where it says; else any parts of streams will do.
        vocabulary: of the checkpoint, where it says.
    """
    expected = {f"{kind}/{layer}.safetensors" for layer in layer_names(model) for kind in ("weights", "optimizer")}
    if vocabulary is not None and vocabulary.name == "sentencepiece":
        expected.add(MODEL_NAME)
    found = set(names)
    streams = {name for name in found - expected if model.carried_shapes() and _STREAMS.fullmatch(name)}
    if streams and experiment is not None:
        micro_size = experiment.batch.micro_size
        expected |= {stream_file(part * micro_size) for part in range(experiment.batch.num_micro_batches)}
    elif streams:
        expected |= streams
    for name in sorted(expected - found):
        return f"it leaves out {name}, which its model has"
    for name in sorted(found - expected):
        return f"it names {name!r:.80}, which its model has not"
    return None


def stream_file(first: int) -> str:
    """The file of the streams from number `first` on."""
    return f"streams/{first:06d}.safetensors"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
