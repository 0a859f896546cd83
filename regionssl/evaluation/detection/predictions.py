"""What a detector finds in the images of a set, in the frame of the upright image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from regionssl.evaluation.detection.coco_metrics import mask_tools
from regionssl.evaluation.detection.samples import load_picture
from regionssl.evaluation.inputs import worker_count
from regionssl.labels.sets import ObjectSet

MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class Detections:
    """Of one image, from the highest score on.

    Attributes:
        boxes: (n, 4) float32, x0 y0 x1 y1.
        scores: (n,) float32.
        labels: (n,) int64, from 0.
        masks: compressed run lengths of each, or none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: tuple[dict[str, Any], ...] = ()


class _Pictures(Dataset[Tensor]):
    def __init__(self, data: ObjectSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(np.array(load_picture(self.data, i))).permute(2, 0, 1).float() / 255


@torch.no_grad()
def outputs(model: nn.Module, data: ObjectSet, device: torch.device | str = "cpu", precision: str = "fp32") -> Any:
    """Yield torchvision's output for each image of a set, one after the other; ``model`` is in evaluation mode.

    Raises:
        InputError: an image cannot be read, or is not of the size that the labels say.
    """
    device = torch.device(device)
    loader = DataLoader(_Pictures(data), batch_size=None, num_workers=worker_count(device))
    for image in loader:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield model([image.to(device)])[0]


def detect(
    model: nn.Module, data: ObjectSet, device: torch.device | str = "cpu", precision: str = "fp32"
) -> list[Detections]:
    """The detections of every image of a set, in its order.

    Args:
        precision: "bf16" computes what is safe in bfloat16.

    Raises:
        InputError: as :func:`outputs`.
    """
    model.eval()
    return [_detections(output) for output in outputs(model, data, device, precision)]


def _detections(output: dict[str, Tensor]) -> Detections:
    order = output["scores"].float().argsort(descending=True, stable=True)
    boxes, scores, labels = (output[key][order].float().cpu().numpy() for key in ("boxes", "scores", "labels"))
    masks = run_lengths(output["masks"][order]) if "masks" in output else ()
    return Detections(boxes, scores, labels.astype(np.int64) - 1, masks)


def run_lengths(masks: Tensor) -> tuple[dict[str, Any], ...]:
    """Masks (n, 1, H, W) in 0..1, cut at one half, as COCO's compressed run lengths."""
    chosen = (masks[:, 0] > MASK_THRESHOLD).byte().cpu().numpy()
    encoded = [mask_tools().encode(np.asfortranarray(mask)) for mask in chosen]
    return tuple({"size": list(map(int, one["size"])), "counts": one["counts"].decode()} for one in encoded)


def coco_results(found: list[Detections]) -> list[dict[str, Any]]:
    """Detections in COCO's result format; image ids are positions + 1, category ids classes + 1."""
    results = []
    for position, one in enumerate(found):
        for k, (x0, y0, x1, y1) in enumerate(one.boxes.astype(np.float64).tolist()):
            result: dict[str, Any] = {
                "image_id": position + 1,
                "category_id": int(one.labels[k]) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(one.scores[k]),
            }
            if one.masks:
                result["segmentation"] = one.masks[k]
            results.append(result)
    return results
