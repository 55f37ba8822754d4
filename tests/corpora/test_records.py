"""JSON lines: which are records, what is wrong with others, and where they are."""

import itertools
import json
import random
import secrets
from pathlib import Path

import pytest

from megachar.base.errors import ConfigError, DataError
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.corpora.records import RecordError, line_of_record, parse_records
from megachar.data.vocabulary import ByteVocabulary
from tests.corpora.preprocessing_by_hand import json_lines, random_records
from tests.draws import fresh_rng

GOOD = '{"text": "good"}'
BAD = [
    ('{"text": "a"', "not JSON"),
    ("text", "not JSON"),
    ('{"text": "a"} {"text": "b"}', "not JSON"),
    ('{"text": "a"}, {"text": "b"}', "not JSON"),
    ('{"text": "\\ud800"}', "not JSON"),
    ('{"text": "\x01"}', "not JSON"),
    ("[]", r"no JSON object but \[\]"),
    ('"text"', 'no JSON object but "text"'),
    ("7", "no JSON object but 7"),
    ('{"txt": "a", "b": 1}', "no key 'text'; its keys are: txt, b"),
    ("{}", "no key 'text'; its keys are: none"),
    ('{"text": "a", "b": -NaN}', "not JSON"),
    ('{"text": NaN}', "no text under the key 'text' but null"),
    ('{"text": "' + '\\"' * 100_000, "not JSON"),  # at once: its quotes are not tried one by one
    ('{"text": null}', "no text under the key 'text' but null"),
    ('{"text": ["a"]}', r"no text under the key 'text' but \[\"a\"\]"),
    ('{"meta": {"text": "inner"}}', "no key 'text'; its keys are: meta"),
]


def texts_of(lines: bytes, skip_bad: bool = False) -> tuple[list[bytes], int]:
    records = parse_records(lines, "text", skip_bad)
    starts = [0, *records.ends.tolist()]
    return [records.text[a:b] for a, b in itertools.pairwise(starts)], records.num_skipped


@pytest.mark.parametrize("blanks", [True, False])
def test_random_records(blanks: bool) -> None:
    seed = secrets.randbits(32)
    draw = random.Random(seed)
    for _ in range(50):
        records = random_records(draw, draw.randrange(1, 20))
        lines = json_lines(draw, records, blanks)
        wanted = [str(record["text"]).encode() for record in records]
        assert texts_of(lines) == (wanted, 0), f"seed {seed}"
        number = draw.randrange(len(records))
        line = lines.split(b"\n")[line_of_record(lines, "text", number)]
        assert json.loads(line)["text"].encode() == wanted[number], f"seed {seed}"


def test_no_records() -> None:
    for lines in (b"", b"\n", b" \n\n"):
        assert texts_of(lines) == ([], 0)


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_lines(line: str, message: str) -> None:
    lines = "\n".join([GOOD, GOOD, line, GOOD]).encode()
    with pytest.raises(RecordError, match=message) as raised:
        parse_records(lines, "text", False)
    assert raised.value.line == 2
    assert texts_of(lines, skip_bad=True) == ([b"good"] * 3, 1)


def test_two_wrongs_do_not_make_a_right() -> None:
    """Lines that, joined as elements of an array, would make as many good records as there are lines."""
    split_over_two = ['{"a": [{}', '{}], "text": "x"}']
    two_on_one = ['{"text": "a"}, {"text": "b"}']
    spaced = ['{"text": "a"} {"text": "b"}', '{"a": [{', '}], "text": "x"}']
    for lines in (split_over_two + two_on_one, two_on_one + split_over_two, spaced, spaced[1:] + spaced[:1]):
        with pytest.raises(RecordError, match="not JSON"):
            parse_records("\n".join(lines).encode(), "text", False)


def test_invalid_utf8_in_a_line() -> None:
    with pytest.raises(RecordError, match="not JSON"):
        parse_records(b'{"text": "\xff"}', "text", False)


def test_other_fields_are_passed_over() -> None:
    assert texts_of(b'{"a": "\xff", "text": "one"}\n{"text": "two", "b": 1e999}') == ([b"one", b"two"], 0)


def test_numbers_that_json_lacks_are_passed_over() -> None:
    """Python writes them; under other keys they do no harm, and inside of texts they are text."""
    lines = b'{"text": "NaN \\" Infinity", "loss": NaN}\n{"a": [-Infinity, {"b": Infinity}], "text": "two"}\n'
    assert texts_of(lines) == ([b'NaN " Infinity', b"two"], 0)
    assert texts_of(lines + b"oops", skip_bad=True) == ([b'NaN " Infinity', b"two"], 1)


def test_byte_order_marks_are_passed_over() -> None:
    """Before the first line, and before others, where files that begin with one were joined."""
    mark = b"\xef\xbb\xbf"
    lines = mark + b'{"text": "a"}\r\n' + mark + b'{"text": "\xef\xbb\xbfb"}\n' + mark
    for skip_bad in (False, True):
        assert texts_of(lines, skip_bad) == ([b"a", mark + b"b"], 0)
    with pytest.raises(RecordError, match="not JSON but UTF-16"):
        parse_records(GOOD.encode("utf-16"), "text", False)


def test_line_ends_of_two_characters() -> None:
    assert texts_of(b'{"text": "a"}\r\n{"text": "b"}\r\n') == ([b"a", b"b"], 0)


def test_a_key_that_cannot_be_looked_for() -> None:
    with pytest.raises(ConfigError, match=r"the key 'a\"b' of JSON lines cannot be looked for .*: rename it"):
        parse_records(GOOD.encode(), 'a"b', False)


def test_bad_lines_are_named_or_counted(tmp_path: Path) -> None:
    lines = [GOOD] * 1000
    place = fresh_rng().integers(1000)
    lines[place] = "oops"
    (tmp_path / "lines").write_text("\n".join(lines) + "\n")
    sources = cut_by_position(tmp_path / "lines", "100,0,0")
    sizes = {"chunk_bytes": 100, "unit_bytes": 1000, "documents": "record"}
    with pytest.raises(DataError, match=rf"lines, line {place + 1:,}: not JSON \(.*\); mend .* \(--skip-bad-lines\)"):
        prepare_corpus(sources, tmp_path / "out", ByteVocabulary(), **sizes)  # type: ignore[arg-type]
    card = prepare_corpus(sources, tmp_path / "out", ByteVocabulary(), skip_bad_lines=True, **sizes)  # type: ignore[arg-type]
    assert card.num_skipped_lines == 1
    assert (card.splits["train"].num_documents, card.splits["train"].num_tokens) == (999, 999 * 4)


def test_other_keys(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"text": "no", "content": "yes"}\n')
    sources = cut_by_position(tmp_path / "lines", "100,0,0")
    prepare_corpus(sources, tmp_path / "out", ByteVocabulary(), documents="record", json_key="content")
    assert (tmp_path / "out" / "train.bin").read_bytes() == b"yes"
