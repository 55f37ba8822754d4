"""Machines of a cluster on this one, for real: namespaces with a network, processes, mounts and an sshd of their own.

Every machine hangs on a switch by a cable whose link can be set down. None of them reaches anything else. All of it
lives in processes that end when this one does, however it does: with them go interfaces, mounts and what they started.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("ip", "mpirun", "mount", "nsenter", "pdsh", "ssh", "ssh-keygen", "sshd", "unshare")
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
START_SECONDS = 20

# Reads lines from standard input; its end is the machine's end, and as process 1 it takes all others with it.
INIT = r"""
set -e
echo started
read -r _
hostname "$NAME"
mount --bind "$FOLDER/hosts" /etc/hosts
mount --bind "$SHARED/ssh_config" /etc/ssh/ssh_config
for file in ~/.bashrc ~/.bash_profile ~/.profile ~/.zshenv ~/.ssh/config /etc/bash.bashrc; do
    [ ! -f $file ] || mount --bind /dev/null $file  # what they do takes time, and is nothing to the tests
done
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir /run/sshd
ip link set lo up
ip address add "$ADDRESS/24" dev "$INTERFACE"
ip link set "$INTERFACE" up
"$(command -v sshd)" -f "$FOLDER/sshd_config" -E "$FOLDER/sshd.log" </dev/null
echo ready
exec 1>&- 2>&-
while read -r _; do :; done
"""
SSHD_CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {shared}/host_key
AuthorizedKeysFile {shared}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
MaxStartups 100
"""
SSH_CONFIG = """\
Host *
    Port {port}
    IdentityFile {shared}/key
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""
SSH_PORT = 2222
TEST_RULE = 10
"""Priority of the rules of routing that tests add."""


def why_not() -> str | None:
    """Why no machines can be made here, such as a program that is not installed; None where they can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=SEARCH_PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; see launcher/system_packages.sh"
    tried = _quiet(["unshare", "--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "--mount-proc",
                    "ip", "link", "add", "probe0", "type", "veth"])  # fmt: skip
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class Machine:
    """One of the cluster's machines."""

    def __init__(self, name: str, address: str, interface: str, folder: Path) -> None:
        self.name, self.address, self.interface, self.folder = name, address, interface, folder
        self._process: subprocess.Popen[str] | None = None
        self._init = 0
        self._num_mounts = 0

    def start(
        self, command: Sequence[str], environment: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on it, in the root of the repository; `options` are those of Popen."""
        enter = ["nsenter", "--target", str(self._init), "--mount", "--uts", "--ipc", "--net", "--pid", "--",
                 "env", f"--chdir={ROOT}", f"HOSTNAME={self.name}"]  # fmt: skip
        variables = {**_environment(), **(environment or {})}
        return subprocess.Popen([*enter, *command], text=True, env=variables, **options)

    def run(
        self, command: Sequence[str], environment: dict[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it to its end."""
        process = self.start(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill_all()
            output, errors = process.communicate()
            raise AssertionError(f"{shlex.join(command)} on {self.name} took more than {timeout} s\n{output}\n{errors}"
                                 ) from None  # fmt: skip
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def do(self, command: str) -> None:
        """Run a shell command on it that must succeed, such as a mount."""
        done = self.run(["sh", "-ec", command])
        assert done.returncode == 0, done.stderr

    def processes(self) -> list[str]:
        """Command lines of what runs on it, but for its own: init and sshd."""
        listed = self.run(["ps", "-eo", "args="]).stdout.splitlines()
        return [line for line in listed if "sshd" not in line and not line.startswith(("bash -c", "ps -eo"))]

    def kill_all(self) -> None:
        """Kill everything on it but init; sshd is started anew."""
        if self._process is None:
            return
        self.run(["sh", "-c", "kill -9 -1"])
        sshd = f"/usr/sbin/sshd -f {self.folder}/sshd_config -E {self.folder}/sshd.log"
        self.do(f"while pgrep -x sshd >/dev/null; do sleep 0.05; done; {sshd}")

    def mend(self) -> None:
        """Undo what a test did to its mounts and routes, and end what it left running."""
        self.do(f"""
            while [ "$(wc -l </proc/self/mounts)" -gt {self._num_mounts} ]; do
                umount --lazy "$(tail -n 1 /proc/self/mounts | cut -d ' ' -f 2)"
            done
            ip route flush type unreachable
            while ip rule delete pref {TEST_RULE} 2>/dev/null; do :; done""")
        self.kill_all()

    def power_on(self, switch: int, port: str, shared: Path) -> None:
        """Start it, plugged into a switch (a process in its network namespace) at `port`."""
        variables = {**_environment(), "NAME": self.name, "ADDRESS": self.address, "INTERFACE": self.interface,
                     "FOLDER": str(self.folder), "SHARED": str(shared)}  # fmt: skip
        command = ["unshare", "--net", "--uts", "--ipc", "--pid", "--mount", "--fork", "--mount-proc",
                   "bash", "-c", INIT]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=(self.folder / "init.log").open("w"), text=True,
                                         env=variables)  # fmt: skip
        self._expect("started")
        pid = self._process.pid
        self._init = int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8"))
        _in_network(switch, f"ip link add {port} type veth peer name {self.interface} netns {self._init}")
        _in_network(switch, f"ip link set {port} master switch up")
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("ready")
        self._num_mounts = len(Path(f"/proc/{self._init}/mounts").read_text(encoding="utf-8").splitlines())

    def power_off(self) -> None:
        """End it and everything on it."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _expect(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        got = self._process.stdout.readline().strip()
        assert got == line, f"{self.name}: {got!r}, not {line!r}: {(self.folder / 'init.log').read_text()}"


class Cluster:
    """Machines node1, node2, ... at 10.77.0.1, .2, ... with interfaces lan1, lan2, ...; a context manager."""

    def __init__(self, folder: Path, num_machines: int = 2) -> None:
        self.folder = folder
        self._switch: subprocess.Popen[str] | None = None
        self.machines = [
            Machine(f"node{number}", f"10.77.0.{number}", f"lan{number}", folder / f"node{number}")
            for number in range(1, num_machines + 1)
        ]

    def __enter__(self) -> "Cluster":
        try:
            self._write_files()
            # The switch ends with its standard input, as the machines do.
            command = ["unshare", "--net", "sh", "-ec", "ip link add switch type bridge; ip link set switch up; "
                       "echo ready; cat >/dev/null"]  # fmt: skip
            self._switch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                            env=_environment())  # fmt: skip
            assert self._switch.stdout is not None
            assert self._switch.stdout.readline() == "ready\n"
            for number, machine in enumerate(self.machines):
                machine.power_on(self._switch.pid, f"port{number}", self.folder)
            self._wait_for_ssh()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all machines and the switch."""
        for machine in self.machines:
            machine.power_off()
        if self._switch is not None:
            assert self._switch.stdin is not None
            self._switch.stdin.close()
            self._switch.wait(START_SECONDS)
            self._switch = None

    def set_link(self, machine: Machine, up: bool) -> None:
        """Plug a machine's cable in, or pull it: nothing it sends arrives any more, and nobody tells anybody."""
        assert self._switch is not None
        _in_network(self._switch.pid, f"ip link set port{self.machines.index(machine)} {'up' if up else 'down'}")

    def mend(self) -> None:
        """Undo what a test did to the machines and their cables."""
        for machine in self.machines:
            machine.mend()
            self.set_link(machine, True)

    def hostfile(self, slots: Sequence[int]) -> Path:
        """A new hostfile that names the machines with these slots."""
        path = self.folder / f"hosts-{'-'.join(map(str, slots))}"
        lines = (f"{machine.name} slots={count}\n" for machine, count in zip(self.machines, slots, strict=False))
        path.write_text("".join(lines), encoding="utf-8")
        return path

    def _write_files(self) -> None:
        for name in ("key", "host_key"):
            done = _quiet(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)])
            assert done.returncode == 0, done.stderr
        (self.folder / "ssh_config").write_text(SSH_CONFIG.format(port=SSH_PORT, shared=self.folder), encoding="utf-8")
        for machine in self.machines:
            machine.folder.mkdir()
            config = SSHD_CONFIG.format(port=SSH_PORT, address="0.0.0.0", shared=self.folder)
            (machine.folder / "sshd_config").write_text(config, encoding="utf-8")
            # A machine calls itself by a loopback address, as Debian's do.
            lines = [f"{'127.0.1.1' if other is machine else other.address} {other.name}" for other in self.machines]
            text = "\n".join(["127.0.0.1 localhost", *lines, ""])
            (machine.folder / "hosts").write_text(text, encoding="utf-8")

    def _wait_for_ssh(self) -> None:
        first, deadline = self.machines[0], time.monotonic() + START_SECONDS
        for machine in self.machines:
            while (done := first.run(["ssh", machine.name, "hostname"])).stdout.strip() != machine.name:
                log = (machine.folder / "sshd.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline, f"no ssh to {machine.name}: {done.stderr}\n{log}"
                time.sleep(0.1)


def _environment() -> dict[str, str]:
    """This process's variables without those of a launcher, with the checkout importable."""
    drop = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PDSH_SSH_ARGS_APPEND", "DS_ENV_FILE")
    variables = {name: value for name, value in os.environ.items() if name not in drop}
    return {**variables, "PATH": SEARCH_PATH, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _in_network(pid: int, command: str) -> None:
    done = _quiet(["nsenter", "--target", str(pid), "--net", "--", *command.split()])
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _quiet(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, env=_environment())
