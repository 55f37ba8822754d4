"""Which command of the manual is tried how. The first pattern that matches the start of a command decides."""

import re

from tests.docs.attempts import (
    Attempt,
    bash_script,
    by_bash,
    calibrate,
    fetch,
    launch,
    launch_205_symbols,
    module,
    nothing,
    parsed,
    pip_install,
    ranks_by,
    refused,
    selftest,
    slurm_job,
    tensorboard,
    works,
)

TINY_TEXT = ("--max-characters", "600")
RULES: tuple[tuple[str, Attempt], ...] = (
    (r".* \| ", by_bash),
    (r"megachar --", works()),
    (r"megachar sweep .*", launch()),
    (r"megachar plan .*--calibrate", calibrate),
    (r"megachar plan ", works()),
    (r"megachar launch .*--launcher no_ssh", refused("cannot start on .*node2", "--timeout", "1")),
    (r"megachar launch .*--launcher openmpi", refused("cannot start on", "--timeout", "5")),
    (r"megachar launch .*--hostfile", refused("cannot start on node1")),
    (r"megachar launch .*data/enwik8-205", launch_205_symbols),
    (r"megachar launch ", launch()),
    (r"megachar selftest .*--hostfile", refused("cannot start on node1")),
    (r"megachar selftest", selftest),
    (r"megachar corpus fetch (?!.*--from)", fetch),
    (r"megachar corpus fetch .*--from", refused("hash|sha|MD5|bytes")),
    (r"megachar corpus prepare .*--vocabulary-size", works("--vocabulary-size", "300")),
    (r"megachar corpus prepare .*--workers", works("--workers", "1")),
    (r"megachar corpus (list|inspect|adopt|prepare)", works()),
    (r"megachar (presets|count|plot|checkpoint|compare) ?", works()),
    (r"megachar scaling fit .*--bootstrap", works("--bootstrap", "50")),
    (r"megachar scaling fit runs/climb ", refused("runs/climb: No such file")),  # no run of it was trained
    (r"megachar scaling (fit|predict|plot) ", works()),
    (r"megachar scaling run ", works("--dry-run")),
    (r"megachar scaling check ", works("--widths", "64,128", "--depths", "", "--steps", "1")),
    (r"megachar evaluate .*--dynamic rms", works(*TINY_TEXT, "--statistics", "600")),
    (r"megachar evaluate ", works(*TINY_TEXT)),
    (r"megachar generate ", works("--characters", "20")),
    (r"megachar analyze surprise ", works(*TINY_TEXT, "--block", "50", "--resamples", "100")),
    (r"megachar analyze context ", works(*TINY_TEXT)),
    (r"megachar analyze ", works()),
    (r"megachar report ", works("--text-characters", "200", "--characters", "20")),
    (r"mpirun -n \d+ megachar corpus prepare .*--mpi", by_bash),
    (r"(deepspeed|torchrun|mpirun) .*launcher/train\.py ", ranks_by),
    (r"sbatch ", slurm_job),
    (r"python tools/(benchmark\w*|chaos)\.py", parsed),
    (r"python -m tests\.", module),
    (r"bash launcher/(quickstart|system_packages|test)\.sh", bash_script),
    (r"pip install (-e )?'?\.", pip_install),
    (r"tensorboard --logdir \S+$", tensorboard),
    (r"python3 -m venv \.venv$|source \.venv/bin/activate$", nothing),
)


def attempt_of(command: str) -> Attempt:
    """How to try a command; AssertionError where no rule covers it."""
    for pattern, attempt in RULES:
        if re.match(pattern, command):
            return attempt
    raise AssertionError("no rule covers it: say in tests/docs/rules.py how to test it")
