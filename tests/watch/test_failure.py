"""Records of what went wrong, and the hub's choice among them."""

from pathlib import Path

import pytest

from megachar.base.errors import ConfigError
from megachar.base.exit_codes import ExitCode
from megachar.config.sections.training import FaultToleranceConfig
from megachar.watch.address import HubAddress
from megachar.watch.failure import Failure, failure_of
from megachar.watch.hub import Hub, beat_interval
from megachar.watch.secret import Secret
from tests.watch.recorded import read_failures

OFF = FaultToleranceConfig(heartbeat_timeout_seconds=0, progress_timeout_seconds=0)


def test_failures_on_disk_are_in_order(tmp_path: Path) -> None:
    later = Failure("death", (1, 2), "b", 4, "gone", time=2000.25)
    earlier = Failure("exception", (3,), "a", None, "ValueError: x", "Traceback", True, time=1000.5)
    for failure in (later, earlier):
        failure.write(tmp_path / "failures")
    assert read_failures(tmp_path / "failures") == [earlier, later]
    assert later.describe() == "ranks 1, 2 on b, step 4: gone"
    assert earlier.describe() == "rank 3 on a: ValueError: x\nTraceback"


def test_an_exception_says_whether_communication_raised_it() -> None:
    with pytest.raises(ValueError, match="x") as caught:
        raise ValueError("x")
    assert not failure_of(caught.value, 1, "a", 3).consequence
    code = compile("def send():\n    raise RuntimeError('Connection closed by peer')\n",
                   "/lib/torch/distributed/distributed_c10d.py", "exec")  # fmt: skip
    names: dict[str, object] = {}
    exec(code, names)
    with pytest.raises(RuntimeError) as peer:
        names["send"]()  # type: ignore[operator]
    assert failure_of(peer.value, 1, "a", 3).consequence
    wrong = failure_of(ConfigError("width=-1"), 1, "a", 3)
    assert (wrong.kind, wrong.exit_code, wrong.traceback) == ("user_error", ExitCode.USER_ERROR, "")


def test_the_cause_is_told_from_its_consequences() -> None:
    """A broken connection is told of before the exception that led to it."""
    hub = Hub(3, OFF, Secret.new())
    hub.start()
    hub.end(Failure("exception", (0,), "a", 3, "closed by peer", consequence=True))
    hub.end(Failure("launcher", (), "a", 3, "gone"))
    hub.end(Failure("exception", (2,), "b", 3, "ValueError: x"))
    assert hub.decided.wait(5)
    assert hub.verdict is not None
    assert hub.verdict.ranks == (2,)
    hub.close()


def test_one_host_is_one_failure() -> None:
    hub = Hub(4, OFF, Secret.new())
    hub.start()
    for rank in (3, 2):
        hub.end(Failure("silence", (rank,), "b", 3, "was not heard of"))
    assert hub.decided.wait(5)
    assert hub.verdict is not None
    assert hub.verdict.ranks == (2, 3)
    hub.close()


def test_an_address_survives_an_environment() -> None:
    address = HubAddress(("10.0.0.1", "192.168.1.1"), 4711, "0123abcd")
    assert HubAddress.parse(str(address)) == address
    assert str(address) == "10.0.0.1,192.168.1.1:4711/0123abcd"


def test_hearts_beat_often_enough() -> None:
    assert beat_interval(FaultToleranceConfig()) == 5
    assert beat_interval(FaultToleranceConfig(heartbeat_timeout_seconds=2)) == 0.2
    assert beat_interval(OFF) == 5
