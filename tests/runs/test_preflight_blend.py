"""Settings of several corpora, and what is refused before any process starts."""

from pathlib import Path

import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.cli.shared.corpora import open_corpus
from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment, parse_experiment, read_yaml, save_experiment
from megachar.config.sections.data import BlendPart, DataConfig
from megachar.runs.preflight import check_data
from tests.config.conftest import BASE
from tests.corpora.corpora_by_hand import write_corpus


def experiment(*overrides: str) -> Experiment:
    return load_experiment(BASE, overrides)


def blend_of(*paths: Path, weight: str = "1") -> str:
    return f"data.blend=[{', '.join(f'{{path: {path}, weight: {weight}}}' for path in paths)}]"


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Path, Path]:
    for name in "ab":
        write_corpus(tmp_path / name, {"train": [[1] * 300], "valid": [[1] * 66]})
    return tmp_path / "a", tmp_path / "b"


def test_a_blend_is_saved_and_read_back(tmp_path: Path, corpora: tuple[Path, Path]) -> None:
    named = experiment(blend_of(*corpora, weight="0.25"))
    assert named.data.parts == tuple(BlendPart(path=str(path), weight=0.25) for path in corpora)
    assert [corpus.folder for corpus in check_data(named).corpora] == list(corpora)
    save_experiment(named, tmp_path / "resolved.yaml")
    assert parse_experiment(read_yaml(tmp_path / "resolved.yaml"), "resolved.yaml") == named


def test_path_and_blend() -> None:
    assert DataConfig(path="a").parts == (BlendPart(path="a", weight=1),)
    assert DataConfig().parts == ()
    with pytest.raises(
        ConfigError, match=r"data\.path = a and data\.blend \(b, c\) both say what to read; set data\.path"
    ):
        experiment("data.path=a", blend_of(Path("b"), Path("c")))


def test_a_corpus_named_twice() -> None:
    with pytest.raises(ConfigError, match=r"data\.blend names b more than once; name it once with the sum"):
        experiment(blend_of(Path("b"), Path("c"), Path("b")))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[{path: a, weight: 0}]", r"data\.blend\.0\.weight = 0: .*greater than 0"),
        ("[{path: a, weight: -1.5}]", r"data\.blend\.0\.weight = -1\.5: .*greater than 0"),
        ("[{path: a, weight: .inf}]", r"data\.blend\.0\.weight = inf: .*finite"),
        ("[{path: a, weight: 1}, {path: b}]", r"data\.blend\.1\.weight = .*: Field required"),
        ("[{path: '', weight: 1}]", r"data\.blend\.0\.path = '': .*at least 1 character"),
        ("[{path: a, wieght: 1}]", r"data\.blend\.0\.wieght: unknown key; did you mean 'weight'\?"),
    ],
)
def test_parts_that_are_none(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(f"data.blend={value}")


def test_a_split_of_a_blend_too_short(corpora: tuple[Path, Path]) -> None:
    check_data(experiment(blend_of(*corpora)))
    with pytest.raises(DataError, match=r"valid split of .*/a: the split has 66 tokens, but one window needs 67"):
        check_data(experiment(blend_of(*corpora), "auxiliary.num_targets=3"))


def test_documents_too_short(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", {"train": [[1] * 65] * 9})
    check_data(experiment(f"data.path={tmp_path}/c"))
    with pytest.raises(
        DataError, match=r"train split of .*/c: 585 of the 585 characters in .* shorter than a window of 66"
    ):
        check_data(experiment(f"data.path={tmp_path}/c", "data.windows=document"))


def test_the_vocabulary_of_a_blend(corpora: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"model\.vocabulary_size = 205, but .*/a has the bytes vocabulary of 256"):
        check_data(experiment(blend_of(*corpora), "model.vocabulary_size=205"))


def test_evaluation_of_a_blend_needs_a_corpus(corpora: tuple[Path, Path]) -> None:
    named = experiment(blend_of(*corpora))
    with pytest.raises(ConfigError, match=r"trained on several corpora \(.*/a, .*/b\); name one with --data FOLDER"):
        open_corpus(named, None, None)
    assert open_corpus(named, None, corpora[1]).folder == corpora[1]
