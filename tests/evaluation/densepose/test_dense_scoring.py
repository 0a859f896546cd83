"""Average precision of dense poses on generated bodies."""

from dataclasses import replace

import numpy as np
import pytest
from body_scenes import Plane, body_set, metres, surface_at

from regionssl.evaluation.densepose.samples import dense_poses
from regionssl.evaluation.densepose.scoring import DenseDetections, dense_scores
from regionssl.evaluation.densepose.similarity import DenseMaps, geodesic_point_similarity, uv_similarity
from regionssl.labels.coco import coco
from regionssl.labels.sets import ObjectSet

GPS = geodesic_point_similarity(Plane())
TICKS = (np.arange(56) + 0.5) / 56


def body_maps(count: int = 1, down: float = 0.0) -> DenseMaps:
    """What a body shows, moved down its box by a share of it."""
    x, y = np.meshgrid(TICKS, TICKS)
    shown = surface_at(np.stack([x, np.clip(y - down, 0, 1 - 1e-9)], -1))
    arrays = (np.round(one).astype(np.uint8) for one in (shown.part, shown.u * 255, shown.v * 255))
    return DenseMaps(*(one[None].repeat(count, 0) for one in arrays))


def at_truth(data: ObjectSet, down: float = 0.0, score: float = 0.9) -> list[DenseDetections]:
    return [
        DenseDetections(one.boxes, np.full(len(one.boxes), score), one.labels, body_maps(len(one.boxes), down))
        for one in data.objects
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ObjectSet:
    return body_set(tmp_path_factory.mktemp("bodies"), 6, size=96)


def test_perfect_poses(data: ObjectSet) -> None:
    scores, evidence = dense_scores(coco(data), dense_poses(data), at_truth(data), GPS)
    assert scores["ap"] == pytest.approx(100)
    assert evidence.metric(np.array([0, 0, 3])) == pytest.approx(100)
    assert dense_scores(coco(data), dense_poses(data), at_truth(data), uv_similarity)[0]["ap"] > 95  # seams


def test_a_pose_that_slips_is_right_at_the_thresholds_below_its_gps(data: ObjectSet) -> None:
    """Every pose is moved by 0.27 m; at each threshold, bodies with a larger GPS are found, the others are misses."""
    down = 0.15
    poses = dense_poses(data)
    found = at_truth(data, down)
    gps = []
    for pose in (image[0] for image in poses):
        assert pose is not None
        moved = pose.places - [0, down]
        estimate = surface_at(moved.clip(0, 1 - 1e-9))
        apart = np.linalg.norm(metres(estimate) - metres(pose.points), axis=1)
        gps.append(np.exp(-(apart**2) / (2 * 0.255**2)).mean())
    gps = np.array(gps)
    scores, evidence = dense_scores(coco(data), poses, found, GPS)
    for threshold, precision in zip(np.linspace(0.5, 0.95, 10), evidence.precisions(np.arange(6))[:, 0], strict=True):
        if np.abs(gps - threshold).min() > 0.01:  # maps have cells
            hits = gps >= threshold
            recall, purity = np.cumsum(hits) / 6, np.cumsum(hits) / np.arange(1, 7)
            marks = np.linspace(0, 1, 101)
            assert precision == pytest.approx(
                100 * np.mean([max(purity[recall >= mark - 1e-12], default=0) for mark in marks])
            )
    assert 0 < scores["ap"] < 100


def test_persons_without_points_and_crowds_count_neither_way(data: ObjectSet) -> None:
    """Beside each body stand one without dense pose and a crowd: detections there do not lower the score."""
    objects = []
    found = []
    for one in data.objects:
        others = np.array([[0.0, 0, 30, 30], [0, 40, 95, 95]])
        objects.append(
            replace(
                one,
                boxes=np.concatenate([one.boxes, others]),
                labels=np.zeros(3, np.int64),
                crowd=np.array([False, False, True]),
                area=np.array([one.area[0], 900, 5225]),
                keypoints=None,
                dense=(one.dense[0], None, None),
            )
        )
        boxes = np.concatenate([one.boxes, [[0, 0, 30, 28], [10, 50, 20, 60]]])
        found.append(DenseDetections(boxes, np.array([0.5, 0.9, 0.8]), np.zeros(3, np.int64), body_maps(3)))
    full = replace(data, objects=tuple(objects))
    scores, evidence = dense_scores(coco(full), dense_poses(full), found, GPS)
    assert scores["ap"] == pytest.approx(100)
    assert evidence.matches.objects.sum() == 6
    away = [replace(one, boxes=np.concatenate([one.boxes[:1], [[60.0, 0, 95, 30]] * 2])) for one in found]
    assert dense_scores(coco(full), dense_poses(full), away, GPS)[0]["ap"] < 60


def test_nothing_found(data: ObjectSet) -> None:
    empty = DenseDetections(
        np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64), DenseMaps(*[np.zeros((0, 56, 56), np.uint8)] * 3)
    )
    scores, evidence = dense_scores(coco(data), dense_poses(data), [empty] * 6, GPS)
    assert scores["ap"] == 0
    assert evidence.metric(np.arange(6)) == 0


def test_a_pose_in_a_wrong_box_still_counts_by_its_points(data: ObjectSet) -> None:
    """GPS reads points where they lie in the image, so a body drawn right within a larger box is right."""
    one = data.objects[0]
    alone = replace(data.subset([0]), objects=(one,))
    extent = one.boxes[0, 2:] - one.boxes[0, :2]
    larger = np.concatenate([one.boxes[0, :2] - extent / 2, one.boxes[0, 2:] + extent / 2])[None]
    maps = body_maps()
    inner = slice(14, 42)
    arrays = []
    for values in (maps.part, maps.u, maps.v):
        whole = np.zeros_like(values)
        whole[:, inner, inner] = values[:, 1::2, 1::2]
        arrays.append(whole)
    found = [DenseDetections(larger, np.ones(1), np.zeros(1, np.int64), DenseMaps(*arrays))]
    assert dense_scores(coco(alone), dense_poses(alone), found, GPS)[0]["ap"] > 85
