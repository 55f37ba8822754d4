"""What the report's page holds for one run and for several, and that it loads and overwrites nothing of others."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megachar.base.errors import ConfigError
from megachar.report.contents import RunContents, read_runs
from megachar.report.curves import layer_charts, run_charts
from megachar.report.output import check_output, write_page
from megachar.report.page import render
from megachar.report.text_settings import TextSettings
from megachar.report.texts import ModelTexts
from megachar.runs.axes import AXES
from megachar.runs.folder import RunFolder
from tests.report.runs import HOSTILE_NAME, SCRIPT, add_analysis, add_evaluation, make_experiment, make_run


class Elements(HTMLParser):
    """Elements and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.starts: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.starts.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def page_of(runs: list[RunContents], texts: dict[str, ModelTexts] | None = None, *notes: str) -> str:
    return render(runs, texts or {}, TextSettings(), notes)


def words_of(page: str) -> str:
    return " ".join(text for text in Elements(page).texts if text)


@pytest.fixture
def two_runs(tmp_path: Path, seed: int) -> list[RunFolder]:
    """A transformer and a recurrent model."""
    return [make_run(tmp_path / "deep", make_experiment(Path("data/some"))),
            make_run(tmp_path / "recurrent", make_experiment(Path("data/some"), "recurrent", seed=7))]  # fmt: skip


def test_runs_are_compared(two_runs: list[RunFolder]) -> None:
    runs = read_runs([run.path for run in two_runs])
    page = page_of(runs)
    words = words_of(page)
    assert "2 runs compared" in words
    assert "What differs" in words
    before_all = words[: words.index("All settings")]
    assert "model.family transformer recurrent" in before_all
    assert "seed 1 7" in before_all
    assert "model.vocabulary_size" not in before_all
    assert "transformer, 2 layers of 8, context 8" in words
    assert "recurrent, 1 layer of mlstm, 12 units, segments of 8" in words
    for run in runs:
        assert f"{run.num_parameters:,}" in words
    for title in ("Loss (bits per character)", "Speed", "Learning rate", "Gradient norm"):
        assert page.count(f"<h4>{title}") == 1
        figure = page[page.index(f"<h4>{title}") :].split("</figure>")[0]
        assert "--series-0" in figure
        assert "--series-1" in figure
    assert page.count("Bits above the last layer") == 4  # two targets of the transformer: a heading and a label each
    assert "step-00000040" in words
    assert "40 2.5000 bf16" in words


def test_steps_whose_gradient_norm_is_not_known_leave_no_gap(two_runs: list[RunFolder]) -> None:
    charts = run_charts(read_runs([run.path for run in two_runs]))
    norm = next(chart for chart in charts if chart.title == "Gradient norm")
    assert [list(curve.places) for curve in norm.curves] == [list(range(2, 41, 2))] * 2


def test_losses_are_drawn_over_what_was_asked_for(two_runs: list[RunFolder]) -> None:
    """Of the records that say it: an older megachar wrote the first half. What is no loss stays over steps."""
    for run in two_runs:
        records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
        for record in records:
            if record["step"] > 20:
                record["seconds"] = record["step"] / 2
        run.metrics_file.write_text("".join(json.dumps(record) + "\n" for record in records))
    runs = read_runs([run.path for run in two_runs])
    losses, speed, *_ = run_charts(runs, AXES["time"])
    assert (losses.over, speed.over) == ("seconds of training", "step")
    assert list(losses.curves[0].places) == [step / 2 for step in range(21, 41)]
    assert len(speed.curves[0].places) == 40
    assert all(curve.places[0] == 10.5 for chart in layer_charts(runs[0], AXES["time"]) for curve in chart.curves)
    assert not run_charts(runs, AXES["flops"])[0].title.startswith("Loss")


def test_one_run_is_compared_with_the_defaults(two_runs: list[RunFolder]) -> None:
    words = words_of(page_of(read_runs([two_runs[1].path])))
    assert "Set otherwise than the defaults" in words
    assert "model.hidden_size 12 1900" in words
    assert "What differs" not in words


def test_the_same_run_twice(two_runs: list[RunFolder]) -> None:
    with pytest.raises(ConfigError, match="is given twice; name each run once"):
        read_runs([two_runs[0].path, two_runs[0].path])


def test_runs_of_the_same_settings(tmp_path: Path, seed: int) -> None:
    paths = [make_run(tmp_path / name, make_experiment(Path("data"))).path for name in "ab"]
    assert "All settings of these runs are the same." in words_of(page_of(read_runs(paths)))


@pytest.mark.parametrize("older", [False, True])
def test_other_files_of_the_run_are_settings_too(two_runs: list[RunFolder], older: bool) -> None:
    for run, version in zip(two_runs, ("2.13.0", "2.14.0"), strict=True):
        start: dict[str, object] = {"torch": version, "numpy": "2.4"}
        values = start if older else {"starts": [{"from_step": 3, **start}]}
        (run.path / "versions.json").write_text(json.dumps(values))
        (run.path / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": 1}}))
    words = words_of(page_of(read_runs([run.path for run in two_runs])))
    differing = words[: words.index("All settings")]
    assert "version: torch 2.13.0 2.14.0" in differing
    assert "zero_optimization" not in differing
    assert "DeepSpeed: zero_optimization.stage 1 1" in words


def test_evaluations(two_runs: list[RunFolder]) -> None:
    run = two_runs[0]
    add_evaluation(run)
    add_evaluation(run, "evaluation-test-stride1-step30", split="test", step=30, dynamic=None, whole_split=False)
    old = {"bits_per_character": 3.25, "split": "valid", "step": 20, "context": 64, "stride": 16, "num_characters": 10}
    (run.path / "evaluation-valid-stride16-step20.json").write_text(json.dumps(old))
    other = {"split": "valid", "is_training_corpus": False, "corpus_folder": "/data/other", "bits_per_character": 4.5}
    (run.path / "evaluation-valid-of-other-0123abcd-stride1-step40.json").write_text(json.dumps({**old, **other}))
    words = words_of(page_of(read_runs([run.path])))
    assert "valid of /data/other 20 10 context 64, stride 16 - 4.5000" in words
    both = (
        "valid 40 1,234 static, windows of 8 dynamic, a step after every 20 fp32 2.3457 2.3000 1,234.5 2.1000 2.0500 -"
    )
    assert both in words
    assert "test 30 1,234 (a part) static, windows of 8 fp32 2.3457 2.3000 1,234.5 - - -" in words
    assert "valid 20 10 context 64, stride 16 - 3.2500 - - - - -" in words


def test_what_cannot_be_read_is_noted(two_runs: list[RunFolder]) -> None:
    run = two_runs[0]
    (run.path / "evaluation-valid-stride1-step1.json").write_text("{")
    (run.path / "evaluation-valid-stride1-step2.json").write_text("[1]")
    run.metrics_file.unlink()
    (run.checkpoints / "step-00000040" / "manifest.json").write_text("{")
    add_analysis(run)
    next(run.path.glob("analyses/*.png")).unlink()
    words = words_of(page_of(read_runs([run.path]), None, "and this"))
    for part in ("step1.json cannot be read", "step2.json cannot be read: it holds no JSON object",
                 "holds no training record yet", "manifest.json is damaged", ".png, which is not beside it", "and this",
                 "No run has a training record", "None yet: megachar evaluate RUN makes one."):  # fmt: skip
        assert part in words, part


def test_bad_steps_are_shown(two_runs: list[RunFolder]) -> None:
    record = {"kind": "guard", "step": 12, "action": "rollback", "reason": f"loss {SCRIPT}", "ranks": [3]}
    with two_runs[0].metrics_file.open("a") as file:
        file.write(json.dumps(record) + "\n")
    words = words_of(page_of(read_runs([two_runs[0].path])))
    assert "Bad steps" in words
    assert f"1 bad step step action reason 12 rollback loss {SCRIPT}" in words


def test_analyses(two_runs: list[RunFolder]) -> None:
    add_analysis(two_runs[0])
    page = page_of(read_runs([two_runs[0].path]))
    words = words_of(page)
    assert "Loss by context small at step 40, valid split, saved with deep Lower is better." in words
    assert "length loss (bits) 32 1.23" in words
    images = [attributes for tag, attributes in Elements(page).starts if tag == "img"]
    assert [str(image["src"])[:30] for image in images] == ["data:image/png;base64,iVBORw0K"]


def test_nothing_comes_from_elsewhere(two_runs: list[RunFolder]) -> None:
    add_analysis(two_runs[0])
    page = page_of(read_runs([run.path for run in two_runs]))
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    for tag, attributes in Elements(page).starts:
        assert tag not in ("script", "iframe", "object", "embed", "form", "base"), tag
        assert not any(name.startswith("on") for name in attributes), attributes
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:")), attributes
    metas = [attributes for tag, attributes in Elements(page).starts if tag == "meta"]
    policy = next(str(meta["content"]) for meta in metas if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    names = re.findall(r' id="([^"]+)"', page)
    assert len(set(names)) == len(names)


def test_names_and_settings_of_strangers(tmp_path: Path, seed: int) -> None:
    experiment = make_experiment(Path("data") / "<b>\u202e\x00", deepspeed=f"'\">{SCRIPT}{{{{ 7 * 7 }}}}")
    run = make_run(tmp_path / HOSTILE_NAME, experiment)
    page = page_of(read_runs([run.path]), None, SCRIPT)
    assert not {"\x00", "\u202e", "\x1b"} & set(page)
    assert SCRIPT not in page
    words = words_of(page)
    assert HOSTILE_NAME.replace("\u202e", "\\u202e") in words
    assert f"'\">{SCRIPT}{{{{ 7 * 7 }}}}" in words
    assert "data/<b>\\u202e\\x00" in words
    assert not [attributes for tag, attributes in Elements(page).starts if tag in ("script", "img", "b")]


def test_bytes_in_a_folder_s_name_that_are_no_utf8(tmp_path: Path, seed: int) -> None:
    run = make_run(tmp_path / "a\udcff", make_experiment(Path("data")))
    path = tmp_path / "report.html"
    write_page(path, page_of(read_runs([run.path])))
    assert "a\\xff" in words_of(path.read_text())


def test_the_file(tmp_path: Path, two_runs: list[RunFolder]) -> None:
    path = tmp_path / "report.html"
    check_output(path)
    assert not path.exists()
    write_page(path, page_of(read_runs([two_runs[0].path])))
    check_output(path)  # a report may be made anew
    assert [other.name for other in tmp_path.iterdir() if "tmp" in other.name] == []


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda path: None, r"--output .*/absent/x.html: the folder .*absent does not exist; make it first"),
    (lambda path: (path.parent.mkdir(), path.write_text("<html>mine</html>")), r"exists and is no report of megachar"),
    (lambda path: path.mkdir(parents=True), r"cannot be written: Is a directory"),
])  # fmt: skip
def test_what_is_no_report_is_not_overwritten(tmp_path: Path, prepare: Any, message: str) -> None:
    path = tmp_path / "absent" / "x.html"
    prepare(path)
    with pytest.raises(ConfigError, match=message):
        check_output(path)
