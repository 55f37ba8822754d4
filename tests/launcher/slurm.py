"""A Slurm of its own on the machines of a cluster: the first one controls, and all of them compute."""

import secrets
import shutil
import time

from tests.launcher.machines import SEARCH_PATH, Cluster

PROGRAMS = ("munged", "salloc", "sbatch", "scontrol", "slurmctld", "slurmd", "srun")
START_SECONDS = 30
CONFIG = """\
ClusterName=machines
SlurmctldHost={control}({control_address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def missing_programs() -> list[str]:
    """What Slurm needs and this machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


def start_slurm(cluster: Cluster) -> dict[str, str]:
    """Start Slurm on all machines; returns the variables that its commands need. It ends with the machines."""
    folder, control = cluster.folder / "slurm", cluster.machines[0]
    (folder / "state").mkdir(parents=True)
    key, config = folder / "munge.key", folder / "slurm.conf"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    nodes = [f"NodeName={machine.name} NodeAddr={machine.address} CPUs=4 State=UNKNOWN" for machine in cluster.machines]
    text = CONFIG.format(control=control.name, control_address=control.address, folder=folder, nodes="\n".join(nodes))
    config.write_text(text, encoding="utf-8")
    environment = {"SLURM_CONF": str(config)}
    for machine in cluster.machines:
        (folder / f"spool-{machine.name}").mkdir()
        machine.do(f"mkdir -p /run/munge; munged --force --key-file={key} --log-file={machine.folder}/munged.log "
                   f"--pid-file=/run/munge/munged.pid --seed-file=/run/munge/munged.seed")  # fmt: skip
        if machine is control:
            machine.do(f"SLURM_CONF={config} slurmctld")
        machine.do(f"SLURM_CONF={config} slurmd")
    deadline = time.monotonic() + START_SECONDS
    while (state := control.run(["sinfo", "--noheader", "--format=%T"], environment)).stdout.split() != ["idle"]:
        logs = "\n".join(path.read_text(encoding="utf-8")[-2000:] for path in folder.glob("*.log"))
        assert time.monotonic() < deadline, f"{state.stdout}{state.stderr}\n{logs}"
        time.sleep(0.2)
    return environment
