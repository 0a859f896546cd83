"""What the environment says about a run of several processes or nodes."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

from regionssl.doctor.finding import Finding

_TOGETHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_TORCHRUN = (
    "torchrun --nnodes N --nproc-per-node M --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m regionssl pretrain"
)
_LOCAL = ("localhost", "127.0.0.1", "::1")


def resolves(host: str) -> bool:
    """Whether a host's name has an address here."""
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True


def check_launch(environment: Mapping[str, str], resolve: Callable[[str], bool] = resolves) -> list[Finding]:
    """The variables of torchrun and SLURM, where they are set."""
    return [*_check_torchrun(environment, resolve), *_check_slurm(environment)]


def _check_torchrun(environment: Mapping[str, str], resolve: Callable[[str], bool]) -> list[Finding]:
    present = [name for name in _TOGETHER if environment.get(name)]
    if not present:
        return []
    absent = [name for name in _TOGETHER if name not in present]
    if absent:
        found = f"{', '.join(present)} set, but not {', '.join(absent)}: the processes would not meet"
        return [Finding("fault", "launch", found, f"unset {' '.join(present)}; or start all with: {_TORCHRUN}")]
    numbers = {name: environment[name] for name in _TOGETHER if name != "MASTER_ADDR"}
    wrong = [f"{name}={value}" for name, value in numbers.items() if not value.isdigit()]
    if wrong:
        return [Finding("fault", "launch", f"not a number: {', '.join(wrong)}", _TORCHRUN)]
    rank, size, host = int(numbers["RANK"]), int(numbers["WORLD_SIZE"]), environment["MASTER_ADDR"]
    local = int(environment.get("LOCAL_WORLD_SIZE") or size)
    if rank >= size:
        return [Finding("fault", "launch", f"RANK={rank} is not below WORLD_SIZE={size}", _TORCHRUN)]
    if size > local and host in _LOCAL:
        found = f"WORLD_SIZE={size} spans machines, and MASTER_ADDR={host} is this one for each of them"
        return [Finding("fault", "launch", found, "export MASTER_ADDR=the name of the first machine")]
    if not resolve(host):
        found = f"MASTER_ADDR={host} has no address here"
        return [Finding("fault", "launch", found, "export MASTER_ADDR=a name or address that every machine can reach")]
    return [Finding("ok", "launch", f"process {rank} of {size}, meeting at {host}:{numbers['MASTER_PORT']}")]


def _check_slurm(environment: Mapping[str, str]) -> list[Finding]:
    if "SLURM_JOB_ID" not in environment:
        return []
    nodes = int(environment.get("SLURM_JOB_NUM_NODES") or environment.get("SLURM_NNODES") or 1)
    tasks = int(environment.get("SLURM_NTASKS") or 1)
    line = f"srun regionssl pretrain ... --nodes {nodes} --devices {max(1, tasks // nodes)}"
    findings = [Finding("note", "launch", f"a SLURM job of {nodes} node(s) and {tasks} task(s)", line)]
    if tasks % nodes:
        found = f"{tasks} tasks are not shared evenly by {nodes} nodes"
        findings.append(Finding("fault", "launch", found, "sbatch --ntasks-per-node=M, the GPUs of a node"))
    if environment.get("SLURM_CPUS_PER_TASK", "1") == "1":
        found = "each SLURM task has one core, which its loader processes share with the training"
        findings.append(Finding("warning", "launch", found, "sbatch --cpus-per-task=8"))
    return findings
