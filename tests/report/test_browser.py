"""The page in a real browser: what a stranger put into runs and corpora is seen, and does nothing."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from megachar.base.pictures import SERIES, SERIES_ON_BLACK
from megachar.base.units import bits
from megachar.data.corpus import Corpus
from megachar.evaluation.predictor import Predictor
from megachar.report.contents import read_runs
from megachar.report.page import render
from megachar.report.text_settings import TextSettings
from megachar.report.texts import LEVELS, read_with_model
from megachar.runs.checkpoints.reading import load_model
from megachar.runs.folder import RunFolder
from tests.colors import contrast, linear, luminance
from tests.report.browser import find_chromium, start, visit
from tests.report.runs import (
    HOSTILE_NAME,
    HOSTILE_TEXT,
    SCRIPT,
    add_analysis,
    add_evaluation,
    make_corpus,
    make_experiment,
    make_run,
)
from tests.report.test_text import expected

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One for all tests; where it does not start, all of them fail with the reason."""
    pytest.importorskip("playwright", reason="Playwright is not installed; pip install -e .[dev] does that")
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine; launcher/system_packages.sh installs one")
    with start(executable) as browser:
        yield browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of hostile names over a hostile corpus, with hostile results."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("runs")
    corpus = make_corpus(folder / f"corpus {SCRIPT.replace('/', '')}", HOSTILE_TEXT)
    found = []
    for name in (HOSTILE_NAME, "other"):
        run = make_run(folder / name, make_experiment(corpus, deepspeed=f"{SCRIPT}\x00\u202e"))
        add_evaluation(run, protocol=SCRIPT, split="'\"><script>alert(2)</script>")
        add_analysis(run, title=f"{SCRIPT}\u202e", how_to_read="<b onmouseover=alert(3)>hover</b>")
        found.append(run.path)
    return found


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    contents, settings = read_runs(runs), TextSettings(device="cpu")
    texts = {run.label: read_with_model(run.folder.path, corpus_of(run.folder.path), settings) for run in contents}
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(contents, texts, settings, [SCRIPT]), encoding="utf-8")
    return path


def corpus_of(run: Path) -> Corpus:
    return Corpus.open(Path(RunFolder(run).load_experiment().data.path))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_runs_loads_or_overflows(browser: "Browser", page: Path, width: int, dark: bool) -> None:
    with visit(browser, page, width, dark=dark) as seen:
        assert seen.evaluate("window.innerWidth") == width
        assert seen.evaluate("document.documentElement.scrollWidth") <= width
        assert seen.evaluate("document.querySelectorAll('script, iframe, object, embed, form, base, [onerror], "
                             "[onmouseover], [onclick], [onload]').length") == 0  # fmt: skip
        assert seen.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
        assert seen.scripts == seen.dialogs == []
        assert seen.complaints == []  # not even something that the policy had to forbid
        assert page.absolute().as_uri() in seen.requests
        assert all(url.startswith("data:") for url in seen.requests if url != page.absolute().as_uri())


def test_what_a_page_does_is_heard(browser: "Browser", tmp_path: Path) -> None:
    """Or the test before would pass whatever the report did."""
    (tmp_path / "page.html").write_text("<script>alert(1); alert(2)</script><img src=no.png><p onclick='x'>")
    with visit(browser, tmp_path / "page.html") as seen:
        assert seen.dialogs == ["1", "2"]
        assert len(seen.scripts) >= 1
        assert any(url.endswith("no.png") for url in seen.requests)
        assert any("no.png" in complaint or "Failed to load" in complaint for complaint in seen.complaints)


def test_a_browser_that_does_not_start_fails_soon(tmp_path: Path) -> None:
    """In a process of its own: Playwright is there once in each."""
    pytest.importorskip("playwright")
    silent = tmp_path / "chromium"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    code = f"from tests.report.browser import start\nwith start({str(silent)!r}, 1): pass"
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "Timeout 1000ms exceeded" in done.stderr
    assert time.monotonic() - began < 20


def test_the_text_is_that_of_the_corpus(browser: "Browser", page: Path) -> None:
    with visit(browser, page) as seen:
        texts = seen.evaluate("[...document.querySelectorAll('.colored')].map(text => text.textContent)")
        assert texts == [expected(HOSTILE_TEXT)] * 2
        assert seen.evaluate(f"document.body.innerText.includes({SCRIPT!r})")
        heading = seen.evaluate("[...document.querySelectorAll('tbody .run')][0].textContent")
        assert heading == HOSTILE_NAME.replace("\u202e", "\\u202e")
        assert "\u202e" not in seen.evaluate("document.documentElement.outerHTML")


def test_the_hover_text_is_right(browser: "Browser", page: Path, runs: list[Path]) -> None:
    with visit(browser, page) as seen:
        shown = seen.evaluate(
            "[...document.querySelector('.colored').children].map(one => [one.textContent, one.title])"
        )
    model = load_model(runs[0]).model
    tokens = corpus_of(runs[0]).split("valid").tokens
    surprise = bits(1.0) * Predictor(model, torch.device("cpu"), stride=1).nats(tokens)
    place = 0
    for text, title in shown:
        first = title.split("\n")
        num_tokens = first[0].count("+") + 1
        assert float(first[0].split()[0]) == pytest.approx(surprise[place : place + num_tokens].sum(), abs=0.006)
        assert first[1].endswith(f"place {place:,}")
        if text.isascii() and text.isprintable() and len(text) == 1:
            assert f"U+{ord(text):04X}" in first[1]
        place += num_tokens
    assert place == tokens.size


@pytest.mark.parametrize("dark", [False, True])
def test_colors_stand_out_from_the_page(browser: "Browser", page: Path, dark: bool) -> None:
    """As the browser shows them: text on each colour of surprise, and the colours of both runs."""
    with visit(browser, page, dark=dark) as seen:
        below, *scale = seen.evaluate(
            "['.colored', '.scale .b0', '.scale .b1', '.scale .b2', '.scale .b3', '.scale .b4', '.scale .b5', "
            "'.scale .b6', '.scale .b7', '.scale .b8'].map(one => getComputedStyle(document.querySelector(one)))"
            ".map(style => [style.color, style.backgroundColor])"
        )
        strokes = seen.evaluate(
            "[...new Set([...document.querySelectorAll('.legend path')].map(one => getComputedStyle(one).stroke))]"
        )
    backgrounds = [below[1] if own == "rgba(0, 0, 0, 0)" else own for _, own in scale]
    assert len(set(backgrounds)) == len(backgrounds) == len(LEVELS) + 1
    assert all(contrast(ink, own) >= 4.5 for (ink, _), own in zip(scale, backgrounds, strict=True))
    assert (luminance(backgrounds[0]) < 0.1) == dark
    palette = SERIES_ON_BLACK if dark else SERIES
    assert [linear(stroke).tolist() for stroke in strokes] == [linear(color).tolist() for color in palette[:2]]
