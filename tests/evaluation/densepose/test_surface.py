"""A table of vertices against a plane on which distances are known."""

from pathlib import Path

import numpy as np
import pytest
from body_scenes import CELL, Plane, metres, surface_at, write_plane

from regionssl.errors import InputError
from regionssl.evaluation.densepose.surface import SurfacePoints, load_surface

PLACES = np.random.default_rng(0).random((2, 200, 2))


def test_distances_of_a_table_are_those_of_the_plane(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane.npz", side=6)
    table = load_surface(tmp_path / "plane.npz")
    first, second = surface_at(PLACES[0]), surface_at(PLACES[1])
    error = table.distances(first, second) - Plane().distances(first, second)
    assert np.abs(error).max() <= np.linalg.norm(CELL / 6)  # each point moves to a vertex at most half a cell away
    assert np.abs(error).mean() > 0


def test_distances_broadcast_and_are_infinite_off_the_body(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane.npz")
    table = load_surface(tmp_path / "plane.npz")
    true = surface_at(PLACES[0])
    estimated = surface_at(PLACES)
    estimated.part[1] = 0
    found = table.distances(estimated, true)
    assert found.shape == (2, 200)
    assert (found[0] == 0).all()
    assert np.isinf(found[1]).all()
    for nowhere in (0, 24):  # off the body, and on a part that the table lacks
        assert np.isinf(table.distances(true, SurfacePoints(true.part * 0 + nowhere, true.u, true.v))).all()


def test_mirror_exchanges_columns(tmp_path: Path) -> None:
    write_plane(tmp_path / "plane.npz", side=5)
    table = load_surface(tmp_path / "plane.npz")
    points = surface_at(PLACES[0])
    points.part[0] = 0
    mirrored = table.mirror(points)
    assert mirrored.part[0] == 0
    expected = metres(points)[1:] * [-1, 1] + [2 * CELL[0], 0]
    apart = metres(mirrored)[1:] - expected
    assert (np.abs(apart) <= CELL / 10 + 1e-9).all()
    assert (mirrored.part[1:] % 2 != points.part[1:] % 2).all()


def test_seam_vertices_lie_on_two_charts(tmp_path: Path) -> None:
    """Chart vertices 1 and 2 are one vertex of the body, so the way from part 1 to part 2 leads over it."""
    np.savez(
        tmp_path / "seam.npz",
        part=[1, 1, 2, 2],
        u=[0.0, 1.0, 0.0, 1.0],
        v=[0.5] * 4,
        vertex=[0, 1, 1, 2],
        distances=[0.3, 0.7, 0.4],
        mirror=[2, 1, 0],
    )
    table = load_surface(tmp_path / "seam.npz")
    left = SurfacePoints(np.array([1, 1, 1]), np.array([0.9, 0.1, 0.1]), np.full(3, 0.5))
    right = SurfacePoints(np.array([2, 2, 1]), np.array([0.1, 0.9, 0.2]), np.full(3, 0.5))
    np.testing.assert_allclose(table.distances(left, right), [0, 0.7, 0], atol=1e-7)
    mirrored = table.mirror(left)
    assert mirrored.part.tolist()[1:] == [2, 2]
    assert mirrored.u.tolist()[1:] == [1.0, 1.0]
    assert (mirrored.part[0], mirrored.u[0]) in {(1, 1.0), (2, 0.0)}


GOOD = {"part": [1, 2], "u": [0.0, 0.5], "v": [0.0, 0.5], "distances": [[0.0, 1.0], [1.0, 0.0]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": [0, 2]}, "1 to 24"),
        ({"part": [1, 25]}, "1 to 24"),
        ({"u": [0.0]}, "equally long"),
        ({"distances": [[0.0, 1.0]]}, "square or an upper triangle"),
        ({"distances": [1.0, 2.0]}, "square or an upper triangle"),
        ({"distances": [[0.0, np.nan], [1.0, 0.0]]}, "finite"),
        ({"vertex": [0, 2]}, "rows of distances"),
        ({"vertex": [0, 0]}, "every one"),
        ({"mirror": [0]}, "mirror as long"),
        ({"mirror": [0, 5]}, "rows of distances"),
    ],
)
def test_bad_tables(tmp_path: Path, change: dict[str, object], message: str) -> None:
    np.savez(tmp_path / "good.npz", **GOOD)
    assert load_surface(tmp_path / "good.npz").separation.shape == (2, 2)
    np.savez(tmp_path / "bad.npz", **(GOOD | change))
    with pytest.raises(InputError, match=message):
        load_surface(tmp_path / "bad.npz")


def test_files_that_are_no_table(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", a=1)
    for name in ("text.npz", "missing.npz", "array.npy", "other.npz"):
        with pytest.raises(InputError, match="distances in metres"):
            load_surface(tmp_path / name)


def test_a_table_without_mirror_does_not_flip(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", **GOOD)
    with pytest.raises(InputError, match="no array mirror"):
        load_surface(tmp_path / "plain.npz").mirror(surface_at(PLACES[0]))
