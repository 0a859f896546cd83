"""Libraries and launch variables of pretend environments."""

import tomllib
from pathlib import Path

import pytest

from regionssl.doctor.finding import worst
from regionssl.doctor.launch import check_launch
from regionssl.doctor.libraries import PURPOSES, check_optional, check_required, requirements

LINES = [
    "torch>=2.11",
    "pillow>=10.3",
    'scikit-image>=0.19; extra == "regions"',
    'onnx>=1.17; extra == "onnx"',
    'onnxruntime>=1.20; extra == "onnx"',
    'pytest>=8; extra == "dev"',
]
PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_required_libraries_that_fit() -> None:
    assert worst(check_required(LINES, {"torch": "2.15.0+cu132", "pillow": "10.3"}.get)) == "ok"


@pytest.mark.parametrize(
    ("installed", "mend"),
    [
        ({"torch": "2.10.1", "pillow": "11"}, 'pip install "torch>=2.11"'),
        ({"torch": "2.11"}, 'pip install "pillow>=10.3"'),
        ({}, 'pip install "pillow>=10.3" "torch>=2.11"'),
    ],
)
def test_required_libraries_that_do_not(installed: dict[str, str], mend: str) -> None:
    (finding,) = check_required(LINES, installed.get)
    assert (finding.level, finding.mend) == ("fault", mend)


def test_optional_libraries_are_told_with_their_extra() -> None:
    installed = {"scikit-image": "0.18", "onnx": "1.17"}
    found = {finding.mend: finding for finding in check_optional(LINES, installed.get)}
    assert found['pip install "regionssl[regions]"'].level == "warning"
    assert found['pip install "regionssl[onnx]"'].level == "note"
    assert found['pip install "regionssl[onnx]"'].found.startswith("onnxruntime is not installed")
    assert worst(check_optional(LINES, {"scikit-image": "0.26", "onnx": "1.17", "onnxruntime": "1.20"}.get)) == "ok"


def test_every_extra_of_the_project_has_a_purpose() -> None:
    assert PURPOSES.keys() == PROJECT["optional-dependencies"].keys() - {"dev", "bench", "docs"}


def test_torchvision_is_asked_what_torch_it_needs() -> None:
    assert any(line.startswith("torch ") or line.startswith("torch=") for line in requirements())


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("change", "level", "word"),
    [
        ({}, "ok", "process 3 of 8"),
        ({"MASTER_ADDR": None}, "fault", "not MASTER_ADDR"),
        ({"RANK": "8"}, "fault", "RANK=8 is not below"),
        ({"WORLD_SIZE": "many"}, "fault", "WORLD_SIZE=many"),
        ({"MASTER_ADDR": "localhost"}, "fault", "spans machines"),
        ({"MASTER_ADDR": "localhost", "LOCAL_WORLD_SIZE": "8"}, "ok", "localhost"),
        ({"MASTER_ADDR": "lost"}, "fault", "has no address"),
    ],
)
def test_torchrun(change: dict[str, str | None], level: str, word: str) -> None:
    environment = {key: value for key, value in {**TORCHRUN, **change}.items() if value is not None}
    (finding,) = check_launch(environment, lambda host: host != "lost")
    assert finding.level == level
    assert word in finding.found


def test_slurm_gives_the_line_to_start_with() -> None:
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "12"}
    (finding,) = check_launch(slurm)
    assert (finding.level, finding.mend) == ("note", "srun regionssl pretrain ... --nodes 2 --devices 4")
    assert worst(check_launch({**slurm, "SLURM_NTASKS": "7"})) == "fault"
    assert worst(check_launch({**slurm, "SLURM_CPUS_PER_TASK": "1"})) == "warning"


def test_nothing_set_nothing_said() -> None:
    assert check_launch({}) == []
