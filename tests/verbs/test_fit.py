"""Runs whose steps do not fit a GPU, pretended on the CPU."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from regionssl import InputError
from regionssl.build import load_config
from regionssl.data.images import ImageList, find_images, scan
from regionssl.verbs.fit import fit_to_memory, take_step
from regionssl.verbs.job import Job, make_job

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


def job(scenes: Path, tmp_path: Path, micro_batch: int | None = None, devices: int = 1) -> Job:
    config = load_config(TINY, {"training.micro_batch": micro_batch} if micro_batch else {})
    images, scanned = scan(find_images(scenes))
    return make_job(config, images, scanned, tmp_path, torch.device("cpu"), devices)


def test_a_trial_takes_the_share_of_one_process_and_keeps_nothing(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen, read = job(scenes, tmp_path, devices=2), [], ImageList.read
    monkeypatch.setattr(ImageList, "read", lambda self, i: seen.append(i) or read(self, i))
    assert take_step(whole) == 0.0
    assert len(seen) == whole.config.training.batch_size // 2
    assert not list(tmp_path.iterdir())
    assert not torch.distributed.is_initialized()


def test_parts_are_halved_until_a_step_fits_and_the_batch_stays(scenes: Path, tmp_path: Path) -> None:
    whole, tried = job(scenes, tmp_path), []

    def trial(one: Job) -> float:
        tried.append(one.config.training.micro_batch)
        if one.config.training.micro_batch is None:
            raise torch.OutOfMemoryError("pretended")
        return 0.5

    console = Console(record=True, quiet=True)
    fitted = fit_to_memory(whole, lambda size: job(scenes, tmp_path, size), None, console, trial)
    share = whole.config.training.batch_size
    assert tried == [None, share // 2]
    assert fitted.config.training.micro_batch == share // 2
    assert fitted.config.training.batch_size == share


def test_a_step_that_fits_whole_stays_whole(scenes: Path, tmp_path: Path) -> None:
    whole = job(scenes, tmp_path)
    assert (
        fit_to_memory(whole, lambda size: job(scenes, tmp_path, size), None, Console(quiet=True), lambda _: 0.9)
        is whole
    )


def test_a_step_that_never_fits_is_a_sentence(scenes: Path, tmp_path: Path) -> None:
    def trial(one: Job) -> float:
        raise torch.OutOfMemoryError("pretended")

    with pytest.raises(InputError, match="does not fit the GPU's memory"):
        fit_to_memory(job(scenes, tmp_path), lambda size: job(scenes, tmp_path, size), None, Console(quiet=True), trial)
