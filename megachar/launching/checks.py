"""What the hosts' answers mean: pure functions from reports to failures."""

from collections import Counter
from collections.abc import Mapping

from megachar.config.experiment import Experiment
from megachar.families.counting import count_parameters
from megachar.launching.hostfile import THIS_MACHINE, Host
from megachar.launching.network import is_loopback
from megachar.launching.probe import Failure, Reach, Report

BYTES_PER_VALUE = 4  # checkpoints hold fp32


MENDS = {
    "run folder": "make it writable there",
    "port": "end what listens there, or take another --master-port",
    "data": "copy the data there, or share it",
    "DeepSpeed JSON": "copy the file there, or share it",
    "device": "set deepspeed=bf16_zero1 or another, or train on GPUs",
    "network interface": "mend its routes",
}


def compare_reports(
    reports: Mapping[str, Report], hosts: tuple[Host, ...], experiment: Experiment, needed_bytes: int
) -> list[Failure]:
    """Everything that is wrong with hosts that answered; `hosts` with the slots they are to fill."""
    failures: list[Failure] = []
    reference_name = next(iter(reports))
    reference = reports[reference_name]
    for host in hosts:
        if host.name not in reports:
            continue
        report = reports[host.name]
        failures += _own_failures(host.name, report)
        for what, own, expected, mend in _differences(report, reference):
            problem = f"{own}, but {reference_name} has {expected}; {mend}"
            failures.append(Failure(host.name, what, problem))
        if not report.folder_seen:
            problem = (
                f"it does not see what the launching machine writes into {experiment.output}/{experiment.name}; "
                f"checkpoints need a folder that all hosts share: set output="
            )
            failures.append(Failure(host.name, "run folder", problem))
    failures += _slot_failures(reports, hosts, experiment)
    free = {name: report.free_bytes for name, report in reports.items() if report.folder_seen}
    if free and min(free.values()) < needed_bytes:
        name = min(free, key=lambda name: free[name])
        problem = (
            f"{_size(free[name])} are free, and the checkpoints still to come take {_size(needed_bytes)}: "
            f"training.keep_checkpoints = {experiment.training.keep_checkpoints}"
            f"{', the best' if experiment.training.keep_best_checkpoint else ''}, and one more while it is written; "
            f"free space, keep fewer, or set output="
        )
        failures.append(Failure(name, "disk space", problem))
    return failures


def _own_failures(name: str, report: Report) -> list[Failure]:
    failures = [Failure(name, check, f"{problem}; {MENDS[check]}") for check, problem in report.errors.items()]
    for program in report.missing_programs:
        failures.append(Failure(name, "programs", f"{program} is not installed there; install it"))
    return failures


def _differences(report: Report, reference: Report) -> list[tuple[str, str, str, str]]:
    """(check, own value, the reference's, mend) of all that must be the same everywhere and is not."""
    found = []
    for package, expected in reference.versions.items():
        own = report.versions.get(package, "")
        if package == "python":
            own, expected = own.rpartition(".")[0], expected.rpartition(".")[0]
        if own != expected:
            mend = f"install {package} {expected} there" if expected else f"install {package}"
            found.append((package, own or "not installed", expected or "none", mend))
    if report.source != reference.source:
        found.append(("megachar", f"source {report.source}", f"source {reference.source}", "check out the same commit"))
    for what, own, expected, mend in (
        ("data", report.data, reference.data, "copy the same corpus there, or share it"),
        ("DeepSpeed JSON", report.engine, reference.engine, "copy the same file there, or share it"),
    ):
        if own and expected and own != expected:  # one that could not be read is a failure of its own
            found.append((what, f"hash {own}", f"hash {expected}", mend))
    return found


def _slot_failures(reports: Mapping[str, Report], hosts: tuple[Host, ...], experiment: Experiment) -> list[Failure]:
    wants_gpus = experiment.device == "cuda"
    if experiment.device == "auto":
        wants_gpus = any(report.num_gpus for report in reports.values())
    failures = []
    for host in hosts:
        if not wants_gpus or host.name not in reports or reports[host.name].num_gpus >= host.slots:
            continue
        num_gpus = reports[host.name].num_gpus
        if host.name == THIS_MACHINE:  # without a hostfile, and so without slots to set
            fewer = _fewer_ranks(experiment, num_gpus)
        else:
            fewer = f"slots={num_gpus}, or " if num_gpus else ""
        problem = f"{host.slots} ranks are to run there on {num_gpus} GPUs; set {fewer}device=cpu"
        failures.append(Failure(host.name, "slots", problem))
    return failures


def _fewer_ranks(experiment: Experiment, num_gpus: int) -> str:
    """The setting that makes a layout fit the GPUs, with ", or "; empty where fewer replicas cannot."""
    parallel = experiment.parallel
    room = num_gpus // (parallel.pipe * parallel.tensor)
    fitting = [data for data in range(1, room + 1) if parallel.data % data == 0]  # so that they divide the batch
    return f"parallel.data={fitting[-1]}, or " if fitting else ""


def choose_addresses(reports: Mapping[str, Report]) -> tuple[dict[str, str], list[Failure]]:
    """The address at which the others reach each host.

    That is what the others take its name for, where it is one of its own addresses; where they do not know its name,
    because ssh alone does, the one at which ssh reached it.
    """
    addresses: dict[str, str] = {}
    failures = []
    if len(reports) == 1:
        return dict.fromkeys(reports, "127.0.0.1"), []
    for name, report in reports.items():
        own = {address for address in report.own_addresses if not is_loopback(address)}
        others = {other: told.addresses[name] for other, told in reports.items()
                  if other != name and name in told.addresses}  # fmt: skip
        for other, told in others.items():
            if told not in own:
                is_at = ", ".join(sorted(own)) or "no address"
                problem = f"it takes {name} for {told}, but {name} is at {is_at}; mend /etc/hosts or DNS there"
                failures.append(Failure(other, "host names", problem))
        candidates = [told for told in others.values() if told in own]
        if not candidates and report.reached_at in own:
            candidates = [report.reached_at]
        if not candidates and len(own) == 1:
            candidates = list(own)
        if candidates:
            addresses[name] = Counter(candidates).most_common(1)[0][0]
        elif not others:
            problem = f"the other hosts do not know its name {name}; add it to /etc/hosts or DNS there"
            failures.append(Failure(name, "host names", problem))
    return addresses, failures


def reach_failures(reaches: Mapping[str, Reach]) -> list[Failure]:
    """Ways between hosts that do not work."""
    return [
        Failure(name, check, f"{problem}; {MENDS.get(check, 'let it through the firewalls')}")
        for name, reach in reaches.items()
        for check, problem in reach.errors.items()
    ]


def checkpoint_bytes(experiment: Experiment) -> int:
    """Size of one checkpoint: weights and the optimizer's state, in fp32."""
    values = sum(part.training for part in count_parameters(experiment.model, experiment.auxiliary))
    return values * (1 + len(experiment.optimizer.state_keys)) * BYTES_PER_VALUE


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.3g} GB"
