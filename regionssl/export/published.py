"""The papers' detection protocols, as configs of other libraries need them: data, classes, and what else is not ours.

The settings themselves are those of ``regionssl evaluate`` (evaluation/protocols); here is what they do not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VOC_CLASSES, COCO_CLASSES, CITYSCAPES_CLASSES = 20, 80, 8


@dataclass(frozen=True)
class Data:
    """The images of a protocol.

    Attributes:
        classes: without background.
        detectron2: registered names of the training sets and of the test set.
    """

    classes: int
    detectron2: tuple[tuple[str, ...], str]


COCO = Data(COCO_CLASSES, (("coco_2017_train",), "coco_2017_val"))
VOC = Data(VOC_CLASSES, (("voc_2007_trainval", "voc_2012_trainval"), "voc_2007_test"))
CITYSCAPES = Data(CITYSCAPES_CLASSES, (("cityscapes_fine_instance_seg_train",), "cityscapes_fine_instance_seg_val"))
PERSONS = Data(1, (("keypoints_coco_2017_train",), "keypoints_coco_2017_val"))

# Protocol -> its data.
PROTOCOLS: dict[str, Data] = {
    "voc0712_c4_18k": VOC,
    "voc0712_c4_24k": VOC,
    "voc0712_fpn_18k": VOC,
    "coco_c4_1x": COCO,
    "coco_c4_2x": COCO,
    "coco_fpn_1x": COCO,
    "coco_fpn_2x": COCO,
    "coco_fpn_scrl_1x": COCO,
    "coco_faster_fpn_1x": COCO,
    "coco_fpn_orl_1x": COCO,
    "coco_fpn_orl_2x": COCO,
    "coco_fpn_r2o": COCO,
    "coco_fpn_r2o_2x": COCO,
    "cityscapes_fpn": CITYSCAPES,
    "coco_keypoints": PERSONS,
}


@dataclass(frozen=True)
class Published:
    """A protocol to be written as a config.

    Attributes:
        name, source: of the protocol, and where its settings come from.
        task: "detection", "instance_segmentation" or "keypoints".
        settings: those of ``regionssl evaluate``, by name.
    """

    name: str
    source: str
    task: str
    settings: Mapping[str, Any]

    @property
    def data(self) -> Data:
        return PROTOCOLS[self.name]

    @property
    def c4(self) -> bool:
        return str(self.settings.get("detector", "")).endswith("_c4")

    @property
    def normed_head(self) -> bool:
        """Whether a norm stands behind the last stage of a C4 head."""
        return self.c4 and self.settings["box_head_norm"] != "none"

    @property
    def masks(self) -> bool:
        return self.task == "instance_segmentation"

    @property
    def drops(self) -> list[int]:
        """Iterations at which the rate falls."""
        total = self.settings["iterations"]
        return [round(drop * total) if drop < 1 else int(drop) for drop in self.settings["drops"]]
