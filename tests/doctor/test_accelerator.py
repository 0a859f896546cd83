"""Builds and GPUs of pretend machines."""

from dataclasses import replace

import pytest
import torch

from regionssl.doctor.accelerator import (
    Accelerator,
    Gpu,
    check_builds,
    check_gpus,
    parts_tried,
    read_accelerator,
    runs_on,
)
from regionssl.engine.memory import largest_part

BIG = Gpu("H200", (9, 0), 140 * 2**30, 139 * 2**30)
GOOD = Accelerator("2.15.0+cu132", "0.29.2+cu132", "13.2", "13.2", "580.95.05", ("sm_80", "sm_90"), (BIG,))
ON_CPU = replace(GOOD, cuda=None, torchvision_cuda=None, driver=None, gpus=(), built_for=())


@pytest.mark.parametrize("facts", [GOOD, ON_CPU, replace(ON_CPU, cuda="13.2", torchvision_cuda="13.2")])
def test_builds_that_belong_together(facts: Accelerator) -> None:
    assert [finding.level for finding in check_builds(facts)] == ["ok"]


@pytest.mark.parametrize(
    ("change", "level", "word"),
    [
        ({"operators": "operator torchvision::nms does not exist"}, "fault", "nms does not exist"),
        ({"torchvision_cuda": None}, "fault", "CUDA 13.2 and torchvision for the processor"),
        ({"torchvision_cuda": "12.4"}, "fault", "torchvision for CUDA 12.4"),
        ({"cuda": None, "torchvision_cuda": None, "gpus": ()}, "warning", "built for the processor only"),
        ({"driver": "550.54.14", "gpus": ()}, "fault", "needs driver 580"),
        ({"gpus": ()}, "warning", "torch sees no GPU"),
    ],
)
def test_builds_that_do_not(change: dict, level: str, word: str) -> None:
    (finding,) = check_builds(replace(GOOD, **change))
    assert (finding.level, bool(finding.mend)) == (level, True)
    assert word in finding.found


def test_a_minor_version_of_cuda_may_differ_and_an_older_major_needs_an_older_driver() -> None:
    assert check_builds(replace(GOOD, torchvision_cuda="13.0"))[0].level == "ok"
    assert check_builds(replace(GOOD, cuda="12.8", torchvision_cuda="12.8", driver="525.60.13"))[0].level == "ok"


def test_a_free_gpu_is_noted_with_what_a_run_would_try() -> None:
    (finding,) = check_gpus(GOOD, 32, 8)
    assert finding.level == "note"
    assert "32, 16, 8 images at once" in finding.found


def test_a_gpu_in_use_without_kernels_or_without_bfloat16() -> None:
    busy = replace(BIG, free=100 * 2**30)
    assert [f.level for f in check_gpus(replace(GOOD, gpus=(busy,)), 8, 8)] == ["warning", "note"]
    old = Gpu("P100", (6, 0), 16 * 2**30, 16 * 2**30)
    assert [f.level for f in check_gpus(replace(GOOD, gpus=(BIG, old)), 8, 8)] == ["note", "fault", "note", "note"]


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        (("sm_80",), (8, 6), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("compute_80",), (9, 0), True),
        (("compute_90",), (8, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_120",), (12, 0), True),
        (("sm_100",), (12, 0), False),
        ((), (8, 0), False),
    ],
)
def test_kernels_run_within_a_major_version_and_ptx_on_later_ones(
    built_for: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    assert runs_on(built_for, capability) is runs


@pytest.mark.parametrize(("share", "together"), [(256, 1), (96, 32), (7, 1), (24, 8), (8, 8)])
def test_what_is_tried_is_what_a_run_tries(share: int, together: int) -> None:
    tried = []

    def attempt(size: int) -> float:
        tried.append(size)
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        largest_part(attempt, share, together)
    assert parts_tried(share, together) == tried


def test_this_environment_can_be_read_and_works() -> None:
    facts = read_accelerator()
    assert facts.operators == ""
    assert facts.torch == torch.__version__
    assert "fault" not in [finding.level for finding in check_builds(facts)]
