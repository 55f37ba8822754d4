"""A rank's side of the connection to its hub."""

import socket
from pathlib import Path
from typing import Any

import pytest

from megachar.config.schema import FaultToleranceConfig
from megachar.watch import rank
from megachar.watch.hub import HubAddress
from megachar.watch.rank import RankWatch


def test_the_hub_hears_first_who_a_rank_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread beats on the connection as soon as it is there; a beat before the greeting is a stranger's."""
    watch = RankWatch(3, 4, FaultToleranceConfig(), tmp_path, output=None)  # type: ignore[arg-type]
    sent: list[tuple[dict[str, Any], bool]] = []
    monkeypatch.setattr(rank, "_send_line", lambda _, message: sent.append((message, watch._socket is None)))
    with socket.create_server(("127.0.0.1", 0)) as server:
        watch.connect(HubAddress(("127.0.0.1",), server.getsockname()[1], "a token"))
    (greeting, unseen_by_the_thread), (beat, _) = sent
    assert (greeting["token"], greeting["rank"]) == ("a token", 3)
    assert unseen_by_the_thread
    assert "idle" in beat
    assert watch._socket is not None
    watch._socket.close()
