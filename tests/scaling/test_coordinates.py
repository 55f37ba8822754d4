"""Updates keep their size over width and depth with the rules, and grow without: the coordinate check."""

from pathlib import Path

import numpy as np
import pytest

from megachar.base.errors import ConfigError
from megachar.config.loading import load_experiment
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from megachar.scaling.coordinates import Sizes, check_coordinates, sized, slope

SETTINGS = ["model.num_layers=2", "model.width=32", "model.num_heads=2", "model.feed_forward_width=128",
            "model.context=32", "model.local_offsets=[]", "batch.micro_size=8", "batch.global_size=8",
            "parallel.data=1", "optimizer.name=adamw", "optimizer.learning_rate=0.003"]  # fmt: skip


def test_slopes(tmp_path: Path) -> None:
    text = np.random.default_rng(1).choice(np.frombuffer(b"the cat sat on a mat. ", np.uint8), 40_000)
    (tmp_path / "text").write_bytes(text.tobytes())
    prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / "corpus", ByteVocabulary())
    experiment = load_experiment("small", [*SETTINGS, f"data.path={tmp_path / 'corpus'}"])
    found = check_coordinates(experiment, {"width": (32, 64, 128), "depth": (2, 4, 8)}, 6)
    for direction in ("width", "depth"):
        assert abs(slope(found, direction, True, "hidden")) < 0.3  # type: ignore[arg-type]
        assert slope(found, direction, False, "hidden") > 0.4  # type: ignore[arg-type]
    assert abs(slope(found, "width", True, "logits")) < 0.3
    assert slope(found, "width", False, "logits") > 0.4


def test_a_slope_is_that_of_logarithms() -> None:
    found = [Sizes("width", size, True, size**1.5, 1 / size) for size in (16, 64, 256)]
    assert slope(found, "width", True, "hidden") == pytest.approx(1.5)
    assert slope(found, "width", True, "logits") == pytest.approx(-1)


def test_sizes() -> None:
    experiment = load_experiment("small", SETTINGS)
    wide = sized(experiment, "width", 64, 32, rules=True).model
    assert (wide.width, wide.num_heads, wide.feed_forward_width, wide.width_ratio) == (64, 4, 256, 2.0)  # type: ignore[attr-defined]
    deep = sized(experiment, "depth", 8, 2, rules=True).model
    assert (deep.num_layers, deep.depth_ratio, deep.width_ratio) == (8, 4.0, 1.0)
    assert sized(experiment, "depth", 8, 2, rules=False).model.depth_ratio == 1.0
    with pytest.raises(ConfigError, match=r"a width of 40 is no multiple of 16, which one head has"):
        sized(experiment, "width", 40, 32, rules=True)
    with pytest.raises(ConfigError, match=r"optimizer.name = sgd"):
        sized(load_experiment("small", [*SETTINGS[:-2], "optimizer.name=sgd"]), "width", 64, 32, rules=True)
