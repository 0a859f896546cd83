"""Correspondences as files: our own, and those of ORL's release."""

import json
from pathlib import Path

import numpy as np
import pytest

from regionssl.errors import InputError
from regionssl.regions.correspondence import CorrespondenceConfig, Correspondences, Ragged
from regionssl.regions.proposals import filter_proposals
from regionssl.regions.release import (
    from_release,
    merge_parts,
    part_rows,
    read_neighbours,
    read_proposals,
    to_release,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "orl_correspondence_files.npz")
MERGED, PART_0, KNN, PROPOSALS = (json.loads(str(GOLDEN[f"{name}_json"])) for name in ("merged", "part0", "knn", "ss"))
FILES, IDS = MERGED["images"]["file_name"], MERGED["images"]["id"]
CONFIG = CorrespondenceConfig()


@pytest.fixture(scope="module")
def found() -> Correspondences:
    return from_release(MERGED, "f00d")


def test_slices_of_the_release() -> None:
    for images, parts, part, begin, end in GOLDEN["slices_N_parts_part_begin_end"].tolist():
        assert part_rows(images, parts, part) == range(begin, end)


def test_proposals_and_filter_give_the_boxes_of_the_release() -> None:
    kept = [filter_proposals(boxes, CONFIG.proposals) for boxes in read_proposals(PROPOSALS)]
    assert [boxes.tolist() for boxes in kept] == MERGED["pseudo_annotations"]["bbox"]
    assert read_neighbours(KNN).tolist() == MERGED["pseudo_annotations"]["knn_image_id"]


def test_the_release_there_and_back(found: Correspondences) -> None:
    assert to_release(found, FILES, IDS, CONFIG) == MERGED
    assert to_release(found, FILES, IDS, CONFIG, part_rows(23, 4, 0)) == PART_0


def test_parts_merge_to_the_whole(found: Correspondences) -> None:
    for parts in (1, 4, 10):
        pieces = [to_release(found, FILES, IDS, CONFIG, part_rows(23, parts, part)) for part in range(parts)]
        assert merge_parts(pieces) == MERGED


def test_parts_that_do_not_make_a_whole(found: Correspondences) -> None:
    with pytest.raises(InputError, match=r"5 \+ 5 images of 23"):
        merge_parts([PART_0, PART_0])
    with pytest.raises(InputError, match="merge all parts first"):
        from_release(PART_0, "f00d")
    with pytest.raises(InputError, match="not a correspondence file"):
        from_release(KNN, "f00d")


def test_a_single_box_may_be_written_flat() -> None:
    """Quirk Q4 of the release's writer."""
    assert [boxes.tolist() for boxes in read_proposals({"bbox": [[1, 2, 3, 4], [[5, 6, 7, 8]]]})] == [
        [[1, 2, 3, 4]],
        [[5, 6, 7, 8]],
    ]


def unique() -> dict[str, object]:
    """The release's file with a name of its own for each image."""
    return {**MERGED, "images": {"file_name": [f"train/{i:03d}.jpg" for i in range(23)], "id": IDS}}


def test_images_in_another_order(found: Correspondences) -> None:
    names = [f"{i:03d}.jpg" for i in range(22, -1, -1)]
    turned = from_release(unique(), "f00d", names)
    for i in range(23):
        np.testing.assert_array_equal(turned.boxes[i], found.boxes[22 - i])
        np.testing.assert_array_equal(turned.neighbours[i], 22 - found.neighbours[22 - i])
        np.testing.assert_array_equal(turned.pairs[i][4], found.pairs[22 - i][4])
    with pytest.raises(InputError, match=r"23 images, and 22 are given"):
        from_release(unique(), "f00d", names[1:])
    with pytest.raises(InputError, match=r"it lacks new\.jpg"):
        from_release(unique(), "f00d", ["new.jpg", *names[1:]])


def test_saved_and_loaded(found: Correspondences, tmp_path: Path) -> None:
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    found.save(first)
    again = Correspondences.load(first, "f00d")
    again.save(second)
    assert first.read_bytes() == second.read_bytes()
    assert to_release(again, FILES, IDS, CONFIG) == MERGED
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.npz", "b.npz"]
    with pytest.raises(InputError, match=r"f00d.*these beef"):
        Correspondences.load(first, "beef")
    first.write_bytes(first.read_bytes()[:-50])
    with pytest.raises(InputError, match="cannot be read as correspondences"):
        Correspondences.load(first)
    np.savez(first, format=np.array("other"))
    with pytest.raises(InputError, match="not a file of correspondences"):
        Correspondences.load(first)


def test_what_does_not_fit_together_is_refused(found: Correspondences) -> None:
    beyond = found.neighbours.copy()
    beyond[3, 3] = 23
    with pytest.raises(InputError, match="neighbours outside 0 to 22"):
        Correspondences("", found.boxes, beyond, found.pairs).check("x")
    bare = Ragged(
        found.boxes.values, np.concatenate([found.boxes.ends[:1], found.boxes.ends[:1], found.boxes.ends[2:]])
    )
    with pytest.raises(InputError, match="an image without a box"):
        Correspondences("", bare, found.neighbours, found.pairs).check("x")
    with pytest.raises(InputError, match="22 of neighbours"):
        Correspondences("", found.boxes, found.neighbours[1:], found.pairs).check("x")


def test_ragged_arrays_are_lists_of_arrays() -> None:
    items = [np.arange(4 * n).reshape(n, 4) for n in (2, 0, 1, 3)]
    rows = Ragged.of(items, 4)
    assert len(rows) == 4
    for expected, got in zip(items, rows, strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(rows[-1], items[3])
    assert [len(item) for item in rows[1:3]] == [0, 1]
    part = rows.part(1, 3)
    assert [item.tolist() for item in part] == [[], [[0, 1, 2, 3]]]
    np.testing.assert_array_equal(part.part(1, 2)[0], items[2])
    with pytest.raises(IndexError):
        rows[4]
    with pytest.raises(IndexError):
        part[2]
