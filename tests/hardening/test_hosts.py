"""Two hosts for real: network namespaces of this machine with a cable between them, each with a torchrun of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

TINY = Path(__file__).parents[1] / "tiny.yaml"
HOSTS = ("rshost1", "rshost2")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two namespaces, 10.77.0.1 and 10.77.0.2."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "rscable1", "type", "veth", "peer", "name", "rscable2")
        for number, host in enumerate(HOSTS, start=1):
            ip("link", "set", f"rscable{number}", "netns", host)
            ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", f"rscable{number}")
            ip("-n", host, "link", "set", f"rscable{number}", "up")
            ip("-n", host, "link", "set", "lo", "up")
        yield
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)


def start(number: int, arguments: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """``regionssl pretrain`` on a host, started by torchrun."""
    interface = {"GLOO_SOCKET_IFNAME": f"rscable{number}", "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number - 1)]
    torchrun += ["--master-addr", "10.77.0.1", "--master-port", "29519"]
    command = ["ip", "netns", "exec", HOSTS[number - 1], sys.executable, *torchrun, "-m", "regionssl", "pretrain"]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, *arguments, "--nodes", "2"], stdout=file, stderr=file, env=os.environ | interface
        )


def alone(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "regionssl", "pretrain", *arguments], check=True, capture_output=True)


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


def test_two_hosts_train_as_one_process(hosts: None, scenes: Path, tmp_path: Path) -> None:
    given = [str(scenes), "--recipe", str(TINY), "--device", "cpu", "--steps", "6", "--set", "optimiser.lr=0.01"]
    runs = [start(n, [*given, "--out", str(tmp_path / "two")], tmp_path / f"{n}.log") for n in (1, 2)]
    assert [run.wait(400) for run in runs] == [0, 0]
    alone(*given, "--out", str(tmp_path / "one"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_host_that_is_cut_off_ends_the_other_with_a_sentence(hosts: None, scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [str(scenes), "--recipe", str(TINY), "--device", "cpu", "--steps", "60", "--out", str(out)]
    runs = [start(n, given, tmp_path / f"{n}.log") for n in (1, 2)]
    deadline = time.monotonic() + 400
    while not list((out / "checkpoints").glob("*.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(1)
    ip("-n", HOSTS[1], "link", "set", "rscable2", "down")
    cut = time.monotonic()
    said = ["", ""]
    while not all("regionssl: the process of rank" in text for text in said):
        assert time.monotonic() < cut + 60, said
        time.sleep(1)
        said = [(tmp_path / f"{n}.log").read_text() for n in (1, 2)]
    assert "rank 1 on" in said[0]
    assert "rank 0" in said[1]
    for run in runs:
        run.terminate()
        run.wait(120)
    alone(str(scenes), "--out", str(out), "--device", "cpu", "--resume")
    assert len(losses(out)) == 60
