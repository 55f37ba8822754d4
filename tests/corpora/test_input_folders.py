"""A folder, globs of it, an archive of it and a pipe of it are the same corpus, whatever lies and links about there."""

import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from megachar.base.errors import DataError
from megachar.corpora.inputs import Input, find_inputs, open_text
from megachar.corpora.preparation import cut_by_position, prepare_corpus
from megachar.data.vocabulary import ByteVocabulary
from tests.corpora.preprocessing_by_hand import pack, tree

TEXTS = {name: f'{{"text": "of {name}"}}\n'.encode() * 50 for name in ("a.jsonl", "b/c.jsonl", "b/d/e", "b.x", "z.xz")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts, one of them packed, among what is left out."""
    folder = tmp_path / "in"
    left_out = (".git/config", "b/.hidden", "__MACOSX/b/._c.jsonl", "b/__MACOSX/d", "b/.d/e")
    for name, text in {**TEXTS, **dict.fromkeys(left_out, b"oops"), "b/empty": b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(pack(text, "xz") if name == "z.xz" else text)
    return folder


def zipped(folder: Path) -> bytes:
    """All that is in a folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def read(texts: list[Input]) -> list[bytes]:
    found = []
    for text in texts:
        with open_text(text) as file:
            found.append(file.read())
    return found


def test_whatever_the_container(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes in every file of the corpus but its card, which names the files; of a pipe but for documents."""
    (tmp_path / "all.zip").write_bytes(zipped(folder))
    ways = {"folder": folder, "glob": folder / "*", "deep glob": folder / "**", "archive": tmp_path / "all.zip"}
    pipes = {"pipe of the archive": zipped(folder), "pipe": b"".join(TEXTS[name] for name in sorted(TEXTS))}
    corpora = {}
    for way, name in {**ways, **dict.fromkeys(pipes, Path("-"))}.items():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pipes.get(way, b""))))
        texts = find_inputs([str(name)], tmp_path / "spool")
        prepare_corpus(cut_by_position(texts), tmp_path / way, ByteVocabulary(), documents="record", durable=False)
        corpora[way] = {name: content for name, content in tree(tmp_path / way).items() if name != "dataset.json"}
    assert len(corpora["folder"]) == 6
    assert all(corpus == corpora["folder"] for corpus in corpora.values())


def test_every_file_once(folder: Path) -> None:
    """Links to files, to folders and in circles, overlapping names and globs: each file is taken once."""
    (folder / "b" / "up").symlink_to("..")
    (folder / "b" / "round").symlink_to("../b", target_is_directory=True)
    (folder / "hard").hardlink_to(folder / "a.jsonl")
    (folder / "soft").symlink_to("b.x")
    wanted = sorted(TEXTS.values())
    for names in (["."], ["**"], ["*"], ["**/*"], ["**/**/*"], [".", "b", "a.jsonl"], ["soft", "b/*", "b/up"]):
        assert sorted(read(find_inputs([folder / name for name in names]))) == wanted, names


def test_links_lead_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    """To a file or a folder, which are read as if they were there."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "text").write_text("outside")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "out").symlink_to(tmp_path / "out", target_is_directory=True)
    for name in ("links", "links/*", "links/**", "links/**/te?t", "[l]inks/out"):
        assert read(find_inputs([tmp_path / name])) == [b"outside"]


def test_circles_of_many_links_are_left_at_once(tmp_path: Path) -> None:
    """Which links in each of ten folders to all of them would make endless."""
    for number in range(10):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        for other in range(10):
            (tmp_path / "in" / str(number) / f"to-{other}").symlink_to(f"../{other}")
    (tmp_path / "in" / "7" / "text").write_text("found")
    for name in ("in", "in/**", "in/**/text"):
        assert read(find_inputs([tmp_path / name])) == [b"found"]


def test_names_of_hidden_files_are_read_where_they_are_written(folder: Path) -> None:
    """What is left out is left out of folders and globs, not of what the user names."""
    for name in (".git", ".git/config", "b/.h*", "__MACOSX/b/._c.jsonl", "__MACOSX/*/._*"):
        assert read(find_inputs([folder / name])) == [b"oops"]


def _no_leave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look everywhere, so the refusal is played."""
    real = Path.iterdir

    def refuse(path: Path) -> object:
        if path == folder / "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", refuse)


def _broken_link(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "b" / "lost").symlink_to("nowhere")


def _circle_of_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "b" / "self").symlink_to("self")


def _pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "b" / "fifo")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_leave, "Permission denied: .*b'"),
        (_broken_link, "b/lost is a link that leads nowhere: mend it, or remove it"),
        (_circle_of_one, "b/self is a link that leads nowhere"),
        (_pipe, "b/fifo is not a regular file"),
    ],
)
@pytest.mark.parametrize("name", [".", "*", "**", "*/*"])
def test_what_cannot_be_looked_at_is_an_error(
    folder: Path, damage: Callable[[Path, pytest.MonkeyPatch], None], message: str, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It names the place; nothing is left out in silence."""
    damage(folder, monkeypatch)
    with pytest.raises((DataError, OSError), match=message):
        find_inputs([folder / name])


def test_folders_of_nothing(folder: Path) -> None:
    """What holds no text is told apart from what does not exist."""
    (folder / "void").mkdir()
    for name in ("void", "vo*", "b/empt*"):
        with pytest.raises(DataError, match=r"holds no text \(hidden and empty files are left out\)"):
            find_inputs([folder / name])
    with pytest.raises(DataError, match=r"no\*e does not exist"):
        find_inputs([folder / "no*e"])
