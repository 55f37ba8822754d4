"""The page in a real browser: what a stranger put into runs and corpora is seen, and does nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megachar.data.corpus import Corpus
from megachar.evaluation.predictor import make_predictor
from megachar.report.contents import read_runs
from megachar.report.page import render
from megachar.report.text_settings import TextSettings
from megachar.report.texts import LEVELS, read_with_model
from megachar.training.checkpoints.reading import load_model
from megachar.training.run_folder import RunFolder
from megachar.units import bits
from tests.report.browser import Browser, find_chromium
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

WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine; launcher/system_packages.sh installs one")
    with Browser(executable, tmp_path_factory.mktemp("profile")) as browser:
        yield browser
    assert browser.processes() == []


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
def test_nothing_runs_loads_or_overflows(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    assert browser.heard("Debugger.scriptParsed") == []
    assert browser.heard("Page.javascriptDialogOpening") == []
    assert browser.heard("Log.entryAdded") == []  # not even something that the policy had to forbid
    requests = [event["request"]["url"] for event in browser.heard("Network.requestWillBeSent")]
    assert page.absolute().as_uri() in requests
    assert all(url.startswith("data:") for url in requests if url != page.absolute().as_uri())
    assert browser.evaluate("window.innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('script, iframe, object, embed, form, base, [onerror], "
                            "[onmouseover], [onclick], [onload]').length") == 0  # fmt: skip
    assert browser.evaluate("[...document.images].every(image => image.naturalWidth > 100)")


def test_the_text_is_that_of_the_corpus(browser: Browser, page: Path) -> None:
    browser.open(page, WIDTHS[0])
    texts = browser.evaluate("[...document.querySelectorAll('.colored')].map(text => text.textContent)")
    assert texts == [expected(HOSTILE_TEXT)] * 2
    assert browser.evaluate(f"document.body.innerText.includes({SCRIPT!r})")
    heading = browser.evaluate("[...document.querySelectorAll('tbody .run')][0].textContent")
    assert heading == HOSTILE_NAME.replace("\u202e", "\\u202e")
    assert "\u202e" not in browser.evaluate("document.documentElement.outerHTML")


def test_the_hover_text_is_right(browser: Browser, page: Path, runs: list[Path]) -> None:
    browser.open(page, WIDTHS[0])
    shown = browser.evaluate(
        "[...document.querySelector('.colored').children].map(one => [one.textContent, one.title])"
    )
    model = load_model(runs[0]).model
    tokens = corpus_of(runs[0]).split("valid").tokens
    surprise = bits(1.0) * make_predictor(model, torch.device("cpu"), stride=1).nats(tokens)
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
def test_text_stands_out_from_its_color(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, WIDTHS[0], dark=dark)
    page_color = "getComputedStyle(document.querySelector('.colored')).backgroundColor"
    backgrounds = []
    for level in range(len(LEVELS) + 1):
        ink, own, below = browser.evaluate(
            f"[getComputedStyle(document.querySelector('.scale .b{level}')).color, "
            f"getComputedStyle(document.querySelector('.scale .b{level}')).backgroundColor, {page_color}]"
        )
        backgrounds.append(below if own == "rgba(0, 0, 0, 0)" else own)
        assert _contrast(ink, backgrounds[-1]) >= 4.5, f"{level}: {ink} on {backgrounds[-1]}"
    assert len(set(backgrounds)) == len(backgrounds)
    assert (_luminance(backgrounds[0]) < 0.1) == dark


def _luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    parts = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)
