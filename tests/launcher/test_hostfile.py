"""Hostfiles: what is read from them, and what is refused."""

from pathlib import Path

import pytest

from megachar.base.errors import PlatformError
from megachar.launching.hostfile import Host, read_hostfile, render_hostfile


def test_hosts_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# two racks\n\nnode2 slots=8\n  node10.cluster   slots=4  # half\n10.0.0.3 slots=1\n")
    hosts = read_hostfile(path)
    assert hosts == (Host("node2", 8), Host("node10.cluster", 4), Host("10.0.0.3", 1))
    path.write_text(render_hostfile(hosts))
    assert read_hostfile(path) == hosts


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "names no host; each line of one reads: HOST slots=GPUS"),
        ("# nothing\n", "names no host"),
        ("a slots=1\nb\n", "line 2: 'b' is not of the form HOST slots=NUMBER, such as: node1 slots=8"),
        ("a slots=two\n", "line 1: 'a slots=two' is not of the form"),
        ("a slots=1 slots=2\n", "line 1: 'a slots=1 slots=2' is not of the form"),
        ("-oProxyCommand=x slots=1\n", "line 1: .* is not of the form"),
        ("\na slots=0\n", "line 2: a has 0 slots; give it 1 or more, or take the line out"),
        ("a slots=1\nb slots=1\na slots=2\n", "line 3: a was named in line 1 already; keep one of the two lines"),
    ],
)
def test_refused(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "hosts"
    path.write_text(text)
    with pytest.raises(PlatformError, match=error):
        read_hostfile(path)


def test_a_missing_hostfile(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"nowhere cannot be read: .*No such file"):
        read_hostfile(tmp_path / "nowhere")
