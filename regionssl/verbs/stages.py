"""ORL as one run: BYOL in OUT/stage1, correspondences in OUT/stage2, ORL in OUT itself (ORL, section 1).

Each stage goes on where it was interrupted, and can be run alone: the first is ``pretrain --recipe byol_orl``, the
second ``correspond``, the third ``pretrain --recipe orl --correspondences FILE``.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from rich.console import Console

from regionssl.build import load_config
from regionssl.config import Config, parse, read_yaml, to_plain
from regionssl.data.images import ImageList
from regionssl.data.patches import PatchSource
from regionssl.engine.checkpoint import write_text
from regionssl.engine.distributed import process_rank
from regionssl.errors import InputError
from regionssl.methods.orl import OrlConfig
from regionssl.regions.correspondence import Correspondences
from regionssl.stores.build import Share
from regionssl.verbs.correspond import FILE, check_possible, correspond
from regionssl.verbs.correspond_work import NetworkSource
from regionssl.verbs.cost import explain_cost
from regionssl.verbs.job import Job, build_trainer, checked_state, launch, refuse_changes, train
from regionssl.verbs.kept_regions import wait_for
from regionssl.verbs.run_folder import CONFIG

STAGE_1, STAGE_2, GIVEN = "stage1", "stage2", "stages.yaml"


class Given(Config):
    """What the user brings instead of a stage.

    Attributes:
        network: in place of stage 1, a run folder or weights of the backbone, as ``--init`` takes them.
        correspondences: in place of stages 1 and 2, the file of stage 2.
    """

    network: str | None = None
    correspondences: str | None = None


def given_stages(out: Path, init: str | None, correspondences: Path | None, resume: bool) -> Given:
    """What is given, or was when the run began.

    Raises:
        InputError: too much is given, or something else than before.
    """
    network = None if init == "random" else init
    if network is not None and correspondences is not None:
        raise InputError(
            "--init names the network that finds correspondences, and --correspondences has them; leave one out"
        )
    given = Given(network=network, correspondences=str(correspondences) if correspondences is not None else None)
    if not resume or not (out / GIVEN).is_file():
        return given
    before = parse(Given, read_yaml(out / GIVEN), str(out / GIVEN))
    if given not in (Given(), before):
        refuse_changes(out, to_plain(before), to_plain(given))
    return before


def correspondences_file(out: Path, given: Given) -> Path:
    """Where the correspondences of a run are."""
    return Path(given.correspondences) if given.correspondences is not None else out / STAGE_2 / FILE


def run_stages(job: Job, given: Given, resume: bool, console: Console, again: str) -> Job:
    """Do what comes before stage 3, or find it done.

    Args:
        again: the command that goes on after an interruption.

    Returns:
        The job of stage 3, with its patches.

    Raises:
        InputError: something given cannot be used, or ``job`` is not the one that was begun.
    """
    file = correspondences_file(job.out, given)
    if resume:
        begun = replace(job, config=load_config(str(job.out / CONFIG), {}))
        refuse_changes(job.out, begun.identity()["config"], job.identity()["config"])
    if given.correspondences is not None:
        Correspondences.load(file, job.images.fingerprint)
    elif not file.is_file():
        check_possible(job.images, cast(OrlConfig, job.config.method).correspondence)
    if process_rank() == 0:
        write_text(job.out / CONFIG, yaml.safe_dump(to_plain(job.config), sort_keys=False))
        write_text(job.out / GIVEN, yaml.safe_dump(to_plain(given)))
    if not file.is_file():
        if given.network is None:
            do_stage_1(job, console, again)
        do_stage_2(job, network_of(job, given), console, again)
    console.print(f"stage 3 of 3: ORL -> {job.out}", highlight=False, soft_wrap=True)
    patches = Correspondences.load(file, job.images.fingerprint)
    return replace(job, patches=patches, correspondences=hashlib.sha256(file.read_bytes()).hexdigest()[:16])


def stage_1(job: Job) -> Job:
    """BYOL with the settings of an ORL job."""
    method = cast(OrlConfig, job.config.method).stage_1()
    about = job.config.about.model_copy(update={"summary": f"stage 1 of: {job.config.about.summary}"})
    config = job.config.model_copy(update={"method": method, "about": about})
    return replace(job, config=config, resolved=replace(job.resolved, method=method), out=job.out / STAGE_1)


def do_stage_1(job: Job, console: Console, again: str) -> None:
    part = stage_1(job)
    console.print(f"stage 1 of 3: BYOL -> {part.out}", highlight=False, soft_wrap=True)
    part.out.mkdir(exist_ok=True)
    begun = (part.out / CONFIG).is_file()
    state = checked_state(part.out, part.identity()) if begun else None
    if state is None or state["step"] < part.resolved.total_steps:
        train(part, begun, console, again)


def network_of(job: Job, given: Given) -> NetworkSource:
    """The network that finds correspondences."""
    if given.network is None:
        return NetworkSource(run=job.out / STAGE_1)
    if (Path(given.network) / CONFIG).is_file():
        return NetworkSource(run=Path(given.network))
    return NetworkSource(backbone=job.config.backbone, init=given.network)


def do_stage_2(job: Job, network: NetworkSource, console: Console, again: str) -> None:
    """The first process finds the correspondences, with as many helpers as the job has devices; the others wait."""
    out = job.out / STAGE_2
    if process_rank() > 0:
        wait_for(out / FILE)
        return
    console.print(f"stage 2 of 3: correspondences -> {out}", highlight=False, soft_wrap=True)
    out.mkdir(exist_ok=True)
    config, share = cast(OrlConfig, job.config.method).correspondence, Share(job.devices)
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    try:
        correspond(job.images, network, out, config, device=job.device.type, console=console, share=share)
    except KeyboardInterrupt:
        console.print(f"stopped in stage 2; go on with:\n  {again}", highlight=False, soft_wrap=True)
        sys.exit(130)
    finally:  # stage 3 computes as it would without stage 2 before it in this process
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


def load_patches(run: Path, images: ImageList) -> PatchSource:
    """The correspondences of a run of ORL.

    Raises:
        InputError: they are not there yet, or of other images.
    """
    given = parse(Given, read_yaml(run / GIVEN), str(run / GIVEN)) if (run / GIVEN).is_file() else Given()
    return Correspondences.load(correspondences_file(run, given), images.fingerprint)


def explain_stages(job: Job, given: Given, console: Console) -> None:
    """The cost of the stages that train; nothing is kept. Boxes of one size stand in for those of stage 2."""
    if given == Given():
        console.print("stage 1 of 3: BYOL")
        part = stage_1(job)
        explain_cost(build_trainer(part, launch(part)), console)
    if given.correspondences is None:
        console.print("stage 2 of 3 is not in these figures; it tells its own pace while it runs")
    console.print("stage 3 of 3: ORL")
    part = replace(job, patches=stand_in(len(job.images)))
    explain_cost(build_trainer(part, launch(part)), console)


@dataclass(frozen=True)
class Repeated:
    """One value at every position."""

    value: Any
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Any:
        return self.value


@dataclass(frozen=True)
class StandIn:
    """Patches for timing: the same box in all images, each the neighbour of the next."""

    boxes: Repeated
    neighbours: np.ndarray
    pairs: Repeated


def stand_in(images: int) -> StandIn:
    """A patch source before there is one."""
    box = np.array([[0, 0, 96, 96]], np.int32)
    neighbours = (np.arange(images)[:, None] + 1) % images
    return StandIn(Repeated(box, images), neighbours, Repeated(Repeated(np.hstack([box, box]), 1), images))
