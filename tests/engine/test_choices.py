"""Automatic choices are right, explained, and never silent."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionssl.engine.choices import choose_device, choose_group_size, choose_queue, choose_workers, resolve
from regionssl.engine.optim import OptimiserConfig
from regionssl.engine.schedule import ScheduleConfig
from regionssl.engine.train import TrainingConfig
from regionssl.errors import InputError
from regionssl.methods.byol import ByolConfig
from regionssl.methods.moco import MocoConfig

CPU = torch.device("cpu")


def settle(training: TrainingConfig, method, images: int = 1000, devices: int = 1):
    return resolve(training, method, OptimiserConfig(lr=0.03), ScheduleConfig(warmup_epochs=5), images, CPU, devices, 1)


@given(wanted=st.integers(1, 70000), images=st.integers(1, 100000), batch=st.integers(1, 512))
def test_queue(wanted: int, images: int, batch: int) -> None:
    length = choose_queue(wanted, images, batch).value
    assert length % batch == 0
    assert length <= max(batch, 0.25 * images)
    assert length <= max(batch, wanted)


@given(wanted=st.integers(1, 64), share=st.integers(1, 300))
def test_group_size(wanted: int, share: int) -> None:
    size = choose_group_size(wanted, share).value
    assert share % size == 0
    assert size <= wanted
    assert all(share % other for other in range(size + 1, min(wanted, share) + 1))


@pytest.mark.parametrize(
    ("device", "cores", "devices", "workers"),
    [("cpu", 2, 1, 0), ("cpu", 64, 8, 0), ("cuda", 16, 1, 15), ("cuda", 16, 8, 1), ("cuda", 2, 4, 1)],
)
def test_loader_processes_leave_a_gpu_a_core_and_a_cpu_has_none(
    device: str, cores: int, devices: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regionssl.engine.choices.usable_cores", lambda: cores)
    assert choose_workers(TrainingConfig(), torch.device(device), devices).value == workers
    assert choose_workers(TrainingConfig(workers=0), torch.device(device), devices).value == 0


def test_a_small_data_set_gets_a_short_queue_and_is_told() -> None:
    resolved = settle(TrainingConfig(batch_size=32), MocoConfig(), images=2064)
    assert resolved.method.queue == 512
    (choice,) = [choice for choice in resolved.choices if choice.setting == "method.queue"]
    assert choice.recipe == 65536
    assert "negative" in str(choice)


def test_micro_batches_keep_groups() -> None:
    resolved = settle(TrainingConfig(batch_size=64, micro_batch=20), MocoConfig(group_size=8))
    assert resolved.training.micro_batch == 16
    resolved = settle(TrainingConfig(batch_size=64, micro_batch=20), ByolConfig())
    assert resolved.training.micro_batch == 16
    assert resolved.method.group_size == 16
    assert any("each part" in str(choice) for choice in resolved.choices)
    assert settle(TrainingConfig(batch_size=64, micro_batch=64), ByolConfig()).training.micro_batch is None


def test_learning_rate_is_scaled_and_said() -> None:
    resolved = settle(TrainingConfig(batch_size=64), MocoConfig())
    assert resolved.peak_lr == pytest.approx(0.0075)
    assert any("peak learning rate" in str(choice) for choice in resolved.choices)


def test_a_short_run_has_a_short_warm_up_and_is_told() -> None:
    resolved = settle(TrainingConfig(batch_size=100, steps=40), MocoConfig())
    assert resolved.schedule.warmup_epochs == pytest.approx(0.4)
    assert any("a tenth of the run" in str(choice) for choice in resolved.choices)
    assert settle(TrainingConfig(batch_size=100, epochs=50), MocoConfig()).schedule.warmup_epochs == 5


def test_steps_and_epochs() -> None:
    assert settle(TrainingConfig(batch_size=100, epochs=3), MocoConfig()).total_steps == 30
    assert settle(TrainingConfig(batch_size=100, epochs=3, steps=7), MocoConfig()).total_steps == 7
    assert settle(TrainingConfig(batch_size=300, epochs=2, drop_last=False), MocoConfig()).total_steps == 8


@pytest.mark.parametrize(
    ("training", "devices", "message"),
    [(TrainingConfig(batch_size=1001), 1, "larger than the data"), (TrainingConfig(batch_size=33), 2, "shared evenly")],
)
def test_batches_that_do_not_fit(training: TrainingConfig, devices: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        settle(training, MocoConfig(), devices=devices)


def test_absent_cuda_and_unknown_device() -> None:
    with pytest.raises(InputError, match="auto, cpu, cuda"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            choose_device("cuda")
