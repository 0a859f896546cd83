"""The settings of training a segmentation network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from regionssl.config import Config
from regionssl.evaluation.segmentation.crops import CropConfig


class SegmentationConfig(Config):
    """Architecture and training. The defaults are VOC's of R2O, section 7.1.

    Attributes:
        head: "fcn" or torchvision's DeepLabV3 head.
        output_stride: of the last map; ResNets are dilated for less than 32, plain transformers give their own map.
        channels, convs, dilation: of the FCN heads' 3x3 convolutions.
        concat: the FCN head joins its input with the result of its convolutions before the classifier.
        rates: dilations of the DeepLabV3 head.
        dropout: of whole channels, before the classifiers of FCN heads.
        auxiliary: weight of the loss of a second FCN head on c4; 0 is none.
        align_corners: how scores are enlarged to pixels: corners by their centres, or edges on edges.
        frozen: only the heads train; the backbone keeps weights and statistics.
        crop: the training crops.
        lr: peak learning rate, of SGD.
        schedule: a factor 0.1 at each of ``drops``, or ``(1 - share of the run) ** power``.
        drops: iterations, or below 1 shares of ``iterations``.
        warmup: iterations of linear warm-up.
        batch_size: over all processes.
        precision: of forward and backward passes; weights stay fp32.
    """

    head: Literal["fcn", "deeplabv3"] = "fcn"
    output_stride: Literal[8, 16, 32] = 16
    channels: int = Field(256, ge=1)
    convs: int = Field(2, ge=1)
    dilation: int = Field(6, ge=1)
    concat: bool = True
    rates: tuple[int, ...] = (6, 12, 18)
    dropout: float = Field(0.1, ge=0, lt=1)
    auxiliary: float = Field(0.2, ge=0)
    align_corners: bool = False
    frozen: bool = False
    crop: CropConfig = CropConfig()
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    schedule: Literal["steps", "poly"] = "steps"
    drops: tuple[Annotated[float, Field(gt=0)], ...] = (0.7, 0.9)
    power: float = Field(0.9, gt=0)
    warmup: int = Field(0, ge=0)
    batch_size: int = Field(16, ge=2)
    iterations: int = Field(30_000, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"

    def rate(self, step: int) -> float:
        """The learning rate of a step; ``step`` steps were done before it."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "poly":
            return self.lr * warm * (1 - step / self.iterations) ** self.power
        marks = [round(drop * self.iterations) if drop < 1 else drop for drop in self.drops]
        return self.lr * warm * 0.1 ** sum(step >= mark for mark in marks)
