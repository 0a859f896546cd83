"""Dense pose of training samples, mirrored too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from body_scenes import CELL, body_set, metres, surface_at, write_plane

from regionssl.errors import InputError, TooFewLabels
from regionssl.evaluation.densepose.samples import DenseSamples, dense_poses
from regionssl.evaluation.densepose.surface import SurfacePoints, load_surface
from regionssl.evaluation.detection.samples import InputSettings

SETTINGS = InputSettings(train_sizes=(64,), test_size=64, max_size=96, flip=0)


def points(target: dict[str, torch.Tensor]) -> SurfacePoints:
    u, v = target["dense_uv"][0].double().numpy().T
    return SurfacePoints(target["dense_part"][0].numpy(), u, v)


def test_targets_tell_what_the_body_shows(tmp_path: Path) -> None:
    data = body_set(tmp_path, 2)
    image, target = DenseSamples(data, SETTINGS, None).draw(1, 0)
    assert image.shape == (3, 64, 64)
    np.testing.assert_allclose(target["boxes"][0].numpy(), data.objects[1].boxes[0] * 64 / 96, atol=1e-4)
    shown = surface_at(target["dense_places"][0].double().numpy())
    found = points(target)
    apart = np.linalg.norm(metres(shown) - metres(found), axis=1)
    assert apart.max() < 1e-5
    assert target["dense_known"].tolist() == [True]
    assert target["dense_body"][0, 10, 10] == 2


def test_a_mirror_exchanges_left_and_right(tmp_path: Path) -> None:
    """The body's picture is symmetric, so the mirrored labels tell what an unmirrored body shows at those places."""
    data = body_set(tmp_path, 2)
    write_plane(tmp_path / "plane.npz", side=20)
    surface = load_surface(tmp_path / "plane.npz")
    flipping = SETTINGS.model_copy(update={"flip": 1.0})
    image, target = DenseSamples(data, flipping, surface).draw(0, 0)
    plain, before = DenseSamples(data, SETTINGS, surface).draw(0, 0)
    assert torch.equal(image, plain.flip(-1))
    assert torch.allclose(target["dense_places"][..., 0], 1 - before["dense_places"][..., 0])
    shown = surface_at(target["dense_places"][0].double().numpy())
    apart = np.abs(metres(shown) - metres(points(target)))
    assert (apart <= CELL / 40 + 1e-6).all()
    assert torch.equal(target["dense_body"], before["dense_body"])
    with pytest.raises(InputError, match="flip: 0"):
        DenseSamples(data, flipping, None).draw(0, 0)


def test_objects_without_dense_pose_and_crowds(tmp_path: Path) -> None:
    data = body_set(tmp_path, 2)
    one = data.objects[0]
    double = replace(
        one,
        boxes=one.boxes.repeat(3, 0),
        labels=np.zeros(3, np.int64),
        crowd=np.array([True, False, False]),
        area=one.area.repeat(3),
        keypoints=None,
        dense=(one.dense[0], None, one.dense[0]),
    )
    data = replace(data, objects=(double, replace(data.objects[1], dense=())))
    poses = dense_poses(data)
    assert [pose is None for pose in poses[0]] == [True, True, False]
    _, target = DenseSamples(data, SETTINGS, None).draw(0, 0)
    assert target["dense_known"].tolist() == [False, True]
    assert target["dense_part"].shape == (2, 40)
    assert not target["dense_part"][0].any()
    _, target = DenseSamples(data, SETTINGS, None).draw(1, 0)
    assert target["dense_known"].tolist() == [False]
    assert target["dense_places"].shape == (1, 0, 2)


def test_a_set_without_dense_pose(tmp_path: Path) -> None:
    data = body_set(tmp_path, 1)
    data = replace(data, objects=(replace(data.objects[0], dense=()),))
    with pytest.raises(TooFewLabels, match="none of the 1 images has an object with dense pose"):
        dense_poses(data)
