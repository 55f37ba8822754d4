"""Files that change while they are open are noticed, and those that do not are not."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megachar.base.errors import DataError
from megachar.config.sections.data import DataConfig
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.blend import Blend
from megachar.data.reader import training_reader
from megachar.data.vocabulary import ByteVocabulary


def replace(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".new"))  # the same bytes, the same time
    path.with_suffix(".new").replace(path)


def write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"z")


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


@pytest.fixture
def blend(tmp_path: Path) -> Blend:
    """Two corpora, of which the train splits are open."""
    for name in ("a", "b"):
        (tmp_path / "text").write_bytes(name.encode() * 2000)
        prepare_corpus(cut_by_position(tmp_path / "text"), tmp_path / name, ByteVocabulary())
    parts = [{"path": str(tmp_path / name), "weight": 1} for name in ("a", "b")]
    config = DataConfig.model_validate({"blend": parts})
    blend = Blend.open(config)
    training_reader(blend, config, context=8, window_tokens=9, seed=1)
    return blend


@pytest.mark.parametrize("change", [replace, write, touch, Path.unlink])
@pytest.mark.parametrize("name", ["a/train.bin", "b/train.idx"])
def test_changes_are_noticed(blend: Blend, tmp_path: Path, change: Callable[[Path], None], name: str) -> None:
    blend.check_unchanged()
    change(tmp_path / name)
    message = rf"{name} is no longer the file that was opened: it was replaced, .*inspect .*{name[0]} --verify"
    with pytest.raises(DataError, match=message):
        blend.check_unchanged()


def test_what_is_not_open_may_change(blend: Blend, tmp_path: Path) -> None:
    write(tmp_path / "a" / "valid.bin")
    (tmp_path / "a" / "train.bin").read_bytes()
    blend.check_unchanged()
