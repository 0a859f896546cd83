"""Do torch, torchvision, the driver and the GPUs belong together, and have the GPUs room?"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from regionssl.data.scan_report import amount
from regionssl.doctor.finding import Finding
from regionssl.engine.memory import ROOM, largest_part

LEAST_DRIVER = {11: 450, 12: 525, 13: 580}
"""The first driver branch for each major version of CUDA, from NVIDIA's table of compatibility."""

_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALL = "pip install --force-reinstall torch torchvision"


@dataclass(frozen=True)
class Gpu:
    """A GPU: compute capability, memory in bytes."""

    name: str
    capability: tuple[int, int]
    total: int
    free: int


@dataclass(frozen=True)
class Accelerator:
    """Facts about the builds and the GPUs.

    Attributes:
        torch, torchvision: versions.
        cuda, torchvision_cuda: versions of CUDA that they were built for; None for the processor only.
        driver: version of NVIDIA's driver; None where there is none.
        built_for: what torch's kernels were compiled for, such as ``sm_90`` or ``compute_90``.
        operators: what went wrong when one of torchvision's compiled operators was called; empty if nothing did.
    """

    torch: str
    torchvision: str
    cuda: str | None
    torchvision_cuda: str | None
    driver: str | None
    built_for: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    operators: str = ""


def read_accelerator() -> Accelerator:
    """The facts of this machine and environment."""
    available = torch.cuda.is_available()
    return Accelerator(
        torch.__version__,
        torchvision.__version__,
        torch.version.cuda,
        _torchvision_cuda(),
        _driver_version(),
        tuple(torch.cuda.get_arch_list()) if available else (),
        tuple(_gpu(i) for i in range(torch.cuda.device_count())) if available else (),
        _try_operator(),
    )


def _gpu(i: int) -> Gpu:
    free, total = torch.cuda.mem_get_info(i)
    return Gpu(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i), total, free)


def _torchvision_cuda() -> str | None:
    """CUDA of torchvision's build as ``12.4``; torchvision keeps it as 12040, and -1 for none."""
    try:
        number = int(torch.ops.torchvision._cuda_version())
    except (AttributeError, RuntimeError):
        return None
    return f"{number // 1000}.{number % 1000 // 10}" if number > 0 else None


def _driver_version() -> str | None:
    if _DRIVER.is_file():
        match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", _DRIVER.read_text())
        return match[1] if match else None
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.splitlines()[0].strip() if answer.strip() else None


def _try_operator() -> str:
    try:
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return ""


def check_builds(facts: Accelerator) -> list[Finding]:
    """Whether torch, torchvision, CUDA and the driver belong together."""
    findings = []
    if facts.operators:
        said = f"torchvision {facts.torchvision} does not work with torch {facts.torch}: {facts.operators}"
        findings.append(Finding("fault", "builds", said, _INSTALL))
    if _major(facts.cuda) != _major(facts.torchvision_cuda):
        kinds = [f"CUDA {version}" if version else "the processor" for version in (facts.cuda, facts.torchvision_cuda)]
        said = f"torch is built for {kinds[0]} and torchvision for {kinds[1]}"
        findings.append(Finding("fault", "builds", said, f"{_INSTALL}, both of one build"))
    if facts.driver and facts.cuda is None:
        said = f"there is a GPU driver ({facts.driver}), but torch is built for the processor only"
        findings.append(Finding("warning", "builds", said, f"{_INSTALL}, the build for CUDA"))
    least = LEAST_DRIVER.get(_major(facts.cuda) or 0)
    if facts.driver and least and (_major(facts.driver) or 0) < least:
        findings.append(
            Finding(
                "fault",
                "builds",
                f"torch is built for CUDA {facts.cuda}, which needs driver {least} or later, and the driver is "
                f"{facts.driver}",
                f"update the driver to {least} or later, or install a torch built for an older CUDA",
            )
        )
    elif facts.driver and facts.cuda and not facts.gpus:
        said = f"torch is built for CUDA {facts.cuda} and driver {facts.driver} is there, but torch sees no GPU"
        findings.append(Finding("warning", "builds", said, "unset CUDA_VISIBLE_DEVICES; nvidia-smi -L"))
    kind = f"CUDA {facts.cuda}" if facts.cuda else "the processor"
    summary = f"torch {facts.torch}, torchvision {facts.torchvision}, for {kind}"
    return findings or [Finding("ok", "builds", summary)]


def check_gpus(facts: Accelerator, share: int, together: int) -> list[Finding]:
    """Whether torch has kernels for each GPU, and what memory it offers.

    Args:
        share: images of one process per step.
        together: images that share batch statistics, the smallest part of a step.
    """
    findings = []
    for number, gpu in enumerate(facts.gpus):
        about, capability = f"GPU {number}", ".".join(map(str, gpu.capability))
        if not runs_on(facts.built_for, gpu.capability):
            said = f"{gpu.name} has compute capability {capability}; this torch has kernels for {facts.built_for}"
            findings.append(Finding("fault", about, said, f"{_INSTALL}, a build for compute capability {capability}"))
        used = gpu.total - gpu.free
        if used > (1 - ROOM) * gpu.total + 2**30:
            said = f"other processes hold {amount(used)} of the {amount(gpu.total)} of {gpu.name}"
            findings.append(Finding("warning", about, said, "nvidia-smi, then CUDA_VISIBLE_DEVICES=N of a free one"))
        sizes = ", ".join(map(str, parts_tried(share, together)))
        said = (
            f"{gpu.name}, {amount(gpu.total)}, {amount(gpu.free)} free; a step is tried with {sizes} images at once "
            f"until it takes at most {ROOM:.0%}"
        )
        findings.append(Finding("note", about, said, "regionssl pretrain DATA --out RUN --dry-run, to try it"))
        if gpu.capability < (8, 0):
            said = f"{gpu.name} has no bfloat16 units: a run computes in fp16, which can overflow"
            findings.append(Finding("note", about, said, "regionssl pretrain ... --precision fp32, if losses are nan"))
    return findings


def parts_tried(share: int, together: int) -> list[int]:
    """The micro-batches that a run tries in turn if none fits."""
    sizes: list[int] = []

    def never_fits(size: int) -> float:
        sizes.append(size)
        return 1.0

    largest_part(never_fits, share, together)
    return sizes


def runs_on(built_for: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether kernels for one of these run on a GPU: same major version, or compiled from PTX for an older one."""
    for name in built_for:
        kind, _, digits = name.rstrip("af").partition("_")
        built = int(digits[:-1]), int(digits[-1])
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def _major(version: str | None) -> int | None:
    return int(version.partition(".")[0]) if version else None
