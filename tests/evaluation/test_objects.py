"""Clusters against foregrounds, on the authors' arrays (``golden/r2o_cub.npz``; R2O, section 7.4)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.errors import InputError
from regionssl.evaluation.objects import (
    confusion_matrix,
    feature_clusters,
    labels_on_grid,
    oracle_choice,
    oracle_ious,
    oracle_object_score,
    score_of,
    truth_on_grid,
)

with np.load(Path(__file__).parents[1] / "golden" / "r2o_cub.npz") as file:
    GOLDEN = dict(file)
CASES = range(4)
CLUSTERS = 5


@pytest.mark.parametrize("case", CASES)
def test_an_image(case: int) -> None:
    labels = labels_on_grid(torch.from_numpy(GOLDEN[f"labels80_{case}"].astype(np.int64))[None], CLUSTERS)[0]
    truth = truth_on_grid(GOLDEN[f"gt_u8_{case}"])
    np.testing.assert_array_equal(labels, GOLDEN[f"labels128_{case}"])
    np.testing.assert_array_equal(truth, GOLDEN[f"gt128_{case}"].astype(bool))
    chosen = oracle_choice(labels, truth, CLUSTERS)
    assert chosen == GOLDEN[f"chosen_{case}"]
    np.testing.assert_array_equal(labels == chosen, GOLDEN[f"pred128_{case}"].astype(bool))
    np.testing.assert_allclose(oracle_ious(labels, truth, CLUSTERS), GOLDEN[f"iou_{case}"], atol=1e-6)


def test_all_images() -> None:
    confusion = sum(
        confusion_matrix(
            torch.from_numpy(GOLDEN[f"pred128_{case}"]).bool(), torch.from_numpy(GOLDEN[f"gt128_{case}"]).bool()
        )
        for case in CASES
    )
    np.testing.assert_array_equal(confusion, GOLDEN["confmat"])
    score = score_of(confusion, 4)
    assert score.miou == pytest.approx(float(GOLDEN["miou"]), abs=1e-9)
    assert score.accuracy == pytest.approx(float(GOLDEN["acc"]), abs=1e-9)
    assert [score.background_iou, score.foreground_iou] == pytest.approx(GOLDEN["iou_bg_fg"].tolist(), abs=1e-9)


class Colours(Encoder):
    """An encoder whose c4 is the mean colour of each cell, with a sign."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"c4": torch.nn.functional.avg_pool2d(x, 16)}


def picture(left: int, top: int, side: int = 32) -> tuple[Image.Image, np.ndarray]:
    """A red square on a blue and green ground of 96 px, and its mask."""
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[:48, :, 1] = pixels[48:, :, 2] = 200
    pixels[top : top + side, left : left + side] = (220, 0, 0)
    return Image.fromarray(pixels), (pixels[..., 0] > 0).astype(np.uint8) * 255


def test_features_that_tell_the_object_apart_find_it() -> None:
    empty = (picture(0, 0)[0], np.zeros((96, 96), np.uint8))
    score = oracle_object_score(Colours(), [picture(16, 16), empty, picture(48, 32)], clusters=3, size=384)
    assert score.foreground_iou > 0.95
    assert score.miou > 0.95
    assert (score.images, score.skipped) == (2, 1)
    assert int(score.confusion.sum()) == 2 * 128 * 128
    again = oracle_object_score(Colours(), [picture(16, 16), empty, picture(48, 32)], clusters=3, size=384)
    assert torch.equal(score.confusion, again.confusion)


def test_a_real_encoder_in_evaluation_mode() -> None:
    encoder = Encoder(EncoderConfig(name="test_resnet"), 64, ("c4",)).train()
    buffers = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    score = oracle_object_score(encoder, [picture(16, 16)], size=128)
    assert 0 < score.miou <= 1
    assert not encoder.training
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in encoder.named_buffers())


def test_masks_of_booleans() -> None:
    mask = picture(16, 16)[1]
    assert torch.equal(truth_on_grid(mask > 0), truth_on_grid(mask))


def test_what_cannot_be_scored_is_said() -> None:
    with pytest.raises(InputError, match="none of the 1 images has a foreground"):
        oracle_object_score(Colours(), [(picture(0, 0)[0], np.zeros((96, 96), np.uint8))])
    pixels = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    with pytest.raises(InputError, match="5 clusters need as many vectors, but an image of 32 px has 4"):
        feature_clusters(Colours(), pixels, torch.tensor([0]), 5, size=32)


def test_a_cluster_that_is_empty_is_never_chosen_before_one_that_overlaps() -> None:
    truth = torch.zeros(4, 4, dtype=torch.bool)
    truth[:, :2] = True
    labels = torch.where(truth, 2, 1)
    assert oracle_choice(labels, truth, 3) == 2
    assert oracle_ious(labels, truth, 3).tolist() == [[0, 1, 0], [0, 0, 1]]
