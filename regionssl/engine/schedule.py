"""Learning rate schedules: a decay times a warm-up, as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from regionssl.config import Config


class ScheduleConfig(Config):
    """``learning rate = peak * warm-up * decay``. The defaults are those of MoCo v2 and ReSim (ReSim, section 5).

    Attributes:
        kind: the decay: a half cosine to 0, a factor 0.1 at each milestone, or none.
        unit: how often the decay moves, at every step or at every epoch; the warm-up moves at every step.
        warmup_epochs: length of the linear warm-up.
        warmup_start: the warm-up's value at step 0, as a share of the peak.
        decay_from: when the decay begins: after the warm-up, or at the start, beneath the warm-up.
        first_step: number of the first step, 0 or 1; with 1 neither warm-up nor decay starts at its first value, and
            the last step of a cosine has rate 0.
        milestones: epochs of the factors 0.1, for the kind "steps".
    """

    kind: Literal["cosine", "steps", "constant"] = "cosine"
    unit: Literal["epoch", "step"] = "epoch"
    warmup_epochs: float = Field(0.0, ge=0)
    warmup_start: float = Field(0.0, ge=0, le=1)
    decay_from: Literal["start", "warmup"] = "warmup"
    first_step: Literal[0, 1] = 0
    milestones: tuple[float, ...] = ()


def learning_rate(config: ScheduleConfig, peak: float, step: int, steps_per_epoch: int, epochs: float) -> float:
    """The learning rate of a step.

    Published settings (a field that is not named has its default):

    * ReSim (section 5), PLRC: the defaults; ReSim's other option is "steps" with milestones 120 and 160.
    * SCRL and its BYOL (section 5.3): unit "step", 10 warm-up epochs, first_step 1.
    * ORL (section 2.4): 4 warm-up epochs, warmup_start 1e-4, decay_from "start".
    * R2O (section 6): unit "step", 3 warm-up epochs.

    Args:
        peak: the rate that the warm-up leads to.
        step: steps done before this one.
        epochs: length of the whole run.
    """
    number = step + config.first_step
    epoch = float(number // steps_per_epoch) if config.unit == "epoch" else number / steps_per_epoch
    return peak * _warmup(config, number, steps_per_epoch) * _decay(config, epoch, epochs)


def _warmup(config: ScheduleConfig, number: int, steps_per_epoch: int) -> float:
    length = config.warmup_epochs * steps_per_epoch
    if number >= length:
        return 1.0
    return 1 - (1 - number / length) * (1 - config.warmup_start)


def _decay(config: ScheduleConfig, epoch: float, epochs: float) -> float:
    if config.kind == "constant":
        return 1.0
    if config.kind == "steps":
        return 0.1 ** sum(epoch >= milestone for milestone in config.milestones)
    begin = config.warmup_epochs if config.decay_from == "warmup" else 0.0
    if epoch <= begin:  # also when the run ends before its warm-up
        return 1.0
    return (1 + math.cos(math.pi * min((epoch - begin) / (epochs - begin), 1.0))) / 2
