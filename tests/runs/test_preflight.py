"""What is checked before a start: corpus, splits, symbols, paths and the run's folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.config.deepspeed import load_engine_config, render_deepspeed_config
from megachar.config.experiment import Experiment
from megachar.config.loading import load_experiment
from megachar.data.characters import CharacterVocabulary
from megachar.runs.folder import RunFolder, run_folder
from megachar.runs.preflight import check_data, check_run_folder, load_run
from tests.config.conftest import BASE
from tests.runs.conftest import MakeCorpus


def experiment(*overrides: str) -> Experiment:
    return load_experiment(BASE, overrides)


def test_a_corpus_that_fits(make_corpus: MakeCorpus) -> None:
    corpus = check_data(experiment(f"data.path={make_corpus()}"))
    assert corpus.split_names == ("train", "valid")


def test_no_path() -> None:
    with pytest.raises(ConfigError, match=r"data\.path is not set; .*data\.path=data/enwik8 .*megachar corpus prepare"):
        check_data(experiment())


def test_no_corpus_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no corpus at .*nowhere: the folder does not exist; prepare it"):
        check_data(experiment(f"data.path={tmp_path}/nowhere"))
    with pytest.raises(DataError, match=r"is no prepared corpus: it has no dataset\.json"):
        check_data(experiment(f"data.path={tmp_path}"))


def test_another_vocabulary(make_corpus: MakeCorpus) -> None:
    path = make_corpus()
    message = rf"model\.vocabulary_size = 205, but {path} has the bytes vocabulary of 256; set .*size=256$"
    with pytest.raises(ConfigError, match=message):
        check_data(experiment(f"data.path={path}", "model.vocabulary_size=205"))


def test_the_number_of_symbols_is_that_of_the_corpus(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    """A preset's number gives way; the user's own, in a file or on the command line, is a check."""
    path = make_corpus()
    small = ["batch.micro_size=4", "batch.global_size=4", "model.segment_length=20"]
    assert load_run("mlstm-46m").model.vocabulary_size == 205
    run = load_run("mlstm-46m", [f"data.path={path}", *small])
    assert run.model.vocabulary_size == 256
    check_data(run)
    own = tmp_path / "own.yaml"
    own.write_text("preset: mlstm-46m\nmodel: {vocabulary_size: 205}\n")
    for source, overrides in ((str(own), []), ("mlstm-46m", ["model.vocabulary_size=205"])):
        given = load_run(source, [*overrides, f"data.path={path}"])
        with pytest.raises(ConfigError, match=r"vocabulary_size = 205, but .* vocabulary of 256; set .*size=256$"):
            check_data(given)
    (tmp_path / "base.yaml").write_text("preset: mlstm-46m\n")
    assert load_run(str(tmp_path / "base.yaml"), [f"data.path={path}"]).model.vocabulary_size == 256
    blend = [f"data.blend=[{{path: {path}, weight: 1}}]"]
    assert load_run("t12", blend).model.vocabulary_size == 256


def test_settings_are_checked_with_the_number_of_symbols(make_corpus: MakeCorpus) -> None:
    """256 symbols are not divisible by 3 tensor ranks, those of this corpus are."""
    path = make_corpus(vocabulary=CharacterVocabulary.text8())
    settings = ["model.num_heads=3", "model.width=48", "model.feed_forward_width=96", "parallel.tensor=3"]
    assert load_run(BASE, [*settings, f"data.path={path}"]).model.vocabulary_size == 27
    with pytest.raises(ConfigError, match=r"vocabulary_size = 256 is not divisible by parallel\.tensor = 3"):
        load_run(BASE, settings)


def test_paths_do_not_depend_on_the_working_folder(
    make_corpus: MakeCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus()
    (tmp_path / "work").mkdir()
    (tmp_path / "own.json").write_text("{}")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))
    run = load_run(BASE, ["data.path=../corpus", "deepspeed=~/own.json", "output=~/runs"])
    assert run.data.path == str(corpus)
    assert (run.output, str(run.deepspeed)) == (str(tmp_path / "runs"), str(tmp_path / "own.json"))
    blend = load_run(BASE, ["data.blend=[{path: ~/corpus, weight: 2}]", "deepspeed=fp32"])
    assert [part.path for part in blend.data.blend] == [str(corpus)]
    assert (blend.output, blend.deepspeed, blend.data.path) == (str(tmp_path / "work" / "runs"), "fp32", "")
    with pytest.raises(ConfigError, match=r"~nobody-at-all/x: .*; look at the path"):
        load_run(BASE, ["data.path=~nobody-at-all/x"])


def test_a_run_keeps_what_its_deepspeed_json_held(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    """Edited, moved or broken afterwards, it means the same to the run; named anew, it is read anew."""
    own, bf16 = tmp_path / "own.json", {"bf16": {"enabled": True}, "zero_optimization": {"stage": 1}}
    own.write_text(json.dumps(bf16))
    settings = [f"data.path={make_corpus()}", f"output={tmp_path}/runs", f"deepspeed={own}"]
    run = load_run(BASE, settings)
    folder = create(run)
    own.write_text("{")
    assert load_engine_config(run.deepspeed).precision == "bf16"
    with pytest.raises(ConfigError, match=r"own\.json is not valid JSON"):
        load_run(BASE, settings)
    own.unlink()
    again = load_run(str(folder.experiment_file))
    assert again == run == folder.load_experiment()
    assert load_engine_config(again.deepspeed).raw == bf16
    assert load_run(str(folder.experiment_file), ["deepspeed=fp32"]).deepspeed == "fp32"


@pytest.mark.parametrize(("split", "name", "tokens"), [("50,50,0", "train", 66), ("90,10,0", "valid", 13)])
def test_a_split_too_short(split: str, name: str, tokens: int, make_corpus: MakeCorpus) -> None:
    """A window is context + targets: 64 + 2 here."""
    path = make_corpus(131, split)
    message = rf"{name} split of {path}: the split has \d+ tokens, but one window needs 6\d .*shorter context or"
    extra = ["auxiliary.num_targets=3"] if tokens == 66 else []
    with pytest.raises(DataError, match=message):
        check_data(experiment(f"data.path={path}", *extra))


def test_splits_of_exactly_one_window(make_corpus: MakeCorpus) -> None:
    check_data(experiment(f"data.path={make_corpus(132, '50,50,0')}"))


def test_valid_and_test_may_be_missing_or_short(make_corpus: MakeCorpus) -> None:
    assert check_data(experiment(f"data.path={make_corpus(1000, '100,0,0')}")).split_names == ("train",)


def test_a_short_test_split_does_not_matter(make_corpus: MakeCorpus) -> None:
    assert "test" in check_data(experiment(f"data.path={make_corpus(1000, '98,0,2')}")).split_names


def test_no_train_split(make_corpus: MakeCorpus) -> None:
    with pytest.raises(DataError, match=r"has no split 'train'; it has: valid"):
        check_data(experiment(f"data.path={make_corpus(1000, '0,100,0')}"))


def create(named: Experiment) -> RunFolder:
    folder = run_folder(named)
    folder.record(named, render_deepspeed_config(named), step=0)
    return folder


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    named = experiment(f"output={tmp_path}/runs", "name=first")
    check_run_folder(named, resume=False)
    create(named)
    with pytest.raises(ConfigError, match=r"run .*/runs/first exists already; continue it with --resume, or set name="):
        check_run_folder(named, resume=False)
    check_run_folder(named, resume=True)
    check_run_folder(experiment(f"output={tmp_path}/runs", "name=second"), resume=False)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no run .*/runs/base to resume; start it without --resume"):
        check_run_folder(experiment(f"output={tmp_path}/runs"), resume=True)


def test_a_run_that_left_before_it_was_recorded_can_be_resumed(tmp_path: Path) -> None:
    """Its status said so. It is at its start."""
    named = experiment(f"output={tmp_path}/runs", "name=first")
    run_folder(named).launch.mkdir(parents=True)
    check_run_folder(named, resume=True)
    check_run_folder(named, resume=False)


def test_what_a_run_folder_says(tmp_path: Path) -> None:
    named = experiment(f"output={tmp_path}/runs", "name=first", "seed=77")
    folder = create(named)
    assert folder.path == tmp_path / "runs" / "first"
    assert folder.load_experiment() == named
    rendered = json.loads((folder.path / "deepspeed.json").read_text())
    assert rendered == render_deepspeed_config(named)


def test_settings_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    """Wherever they end. What an older megachar wrote has no mark of its end, and may lack what is new."""
    named = experiment(f"output={tmp_path}/runs", "name=first", "seed=77")
    folder = create(named)
    data = folder.experiment_file.read_bytes()
    for size in (0, 3, 4, 50, len(data) // 2, len(data) - 30, len(data) - 5, len(data) - 1):
        folder.experiment_file.write_bytes(data[:size])
        with pytest.raises(ConfigError):
            folder.load_experiment()
        with pytest.raises(ConfigError):
            check_run_folder(named, resume=True)
    older = data.removeprefix(b"---\n").removesuffix(b"...\n")
    folder.experiment_file.write_bytes(older[: older.index(b"guard:")])
    assert folder.load_experiment() == named
    folder.experiment_file.write_bytes(older[: older.index(b"parallel:")])
    with pytest.raises(ConfigError, match=r"resolved\.yaml is cut off: .*; put a whole copy in its place"):
        folder.load_experiment()


def test_a_full_disk_leaves_the_settings_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = experiment(f"output={tmp_path}/runs", "name=first")
    folder = create(named)
    write = Path.write_text

    def full(path: Path, *arguments: Any, **more: Any) -> int:
        if "resolved" in path.name:
            write(path, "half")
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        folder.record(named.model_copy(update={"seed": 5}), {}, step=3)
    assert folder.load_experiment() == named
    assert RunFolder(folder.path).experiment_file.with_name("resolved-until-step-3.yaml").is_file()
    assert not list(folder.path.glob(".*"))


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no resolved\.yaml; name one such as runs/"):
        RunFolder(tmp_path).load_experiment()
