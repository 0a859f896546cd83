"""COCO jsons: what is read, and what is done to odd ones."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from regionssl.data.scenes import generate, write_scenes
from regionssl.errors import InputError
from regionssl.labels.coco import coco, read_coco_objects
from regionssl.labels.coco_json import flip_pairs
from regionssl.labels.sets import ObjectSet

TRIANGLE = [[4, 5, 14, 5, 14, 13]]


def box(number: int, image: Any, category: Any, bbox: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 50, "iscrowd": 0, **more}


def indexed(labelled: ObjectSet) -> COCO:
    """pycocotools' view of a set."""
    index = COCO()
    index.dataset = json.loads(json.dumps(coco(labelled)))
    index.createIndex()
    return index


def test_generated_scenes_are_read_as_they_were_made(tmp_path: Path) -> None:
    write_scenes(tmp_path, 4, size=64)
    labelled = read_coco_objects(tmp_path / "annotations.json")
    assert labelled.has_masks
    assert not labelled.findings
    index = indexed(labelled)
    number = 0
    for i in range(4):
        scene = generate(i, 64)
        one = labelled.objects[i]
        np.testing.assert_array_equal(labelled.images.load(i).size, labelled.sizes[i])
        np.testing.assert_array_equal(one.boxes, scene.boxes)
        np.testing.assert_array_equal(one.labels + 1, scene.labels)
        np.testing.assert_array_equal(one.area, scene.masks.sum((1, 2)))
        for k, mask in enumerate(scene.masks):
            number += 1
            np.testing.assert_array_equal(labelled.mask(i, k), mask)
            np.testing.assert_array_equal(index.annToMask(index.anns[number]), mask)


def test_images_are_sorted_and_class_ids_closed_up(coco_set: Any) -> None:
    labelled = read_coco_objects(coco_set.write())
    assert list(labelled.images.names) == ["0.png", "1.png"]
    assert labelled.classes == ("cat", "dog")
    assert labelled.category_ids == (3, 7)
    assert labelled.findings == ("category ids have gaps (2 from 3 to 7); classes count in their order",)
    assert [one.labels.tolist() for one in labelled.objects] == [[0], [1]]
    np.testing.assert_array_equal(labelled.objects[0].boxes, [[4, 5, 14, 13]])
    assert not labelled.has_masks
    np.testing.assert_array_equal(labelled.class_counts(), [[1, 0], [0, 1]])


def test_the_ground_truth_written_is_that_read(coco_set: Any) -> None:
    keypoints = {"keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3], [9, 1]]}
    coco_set.content["categories"][0] |= keypoints
    points = [1, 2, 2, 3, 4, 1, 9, 9, 0]
    dense = {"dp_x": [1.5], "dp_I": [3]}
    first, second = coco_set.content["annotations"]
    first |= {"segmentation": TRIANGLE, "iscrowd": 1, **dense}
    second |= {"segmentation": TRIANGLE, "keypoints": points}
    labelled = read_coco_objects(coco_set.write())
    assert labelled.keypoint_names == ("nose", "left_eye", "right_eye")
    assert labelled.keypoint_flips == ((1, 2),)
    assert labelled.keypoint_skeleton == ((0, 1), (0, 2))
    written = coco(labelled)["annotations"]
    expected = {
        "image_id": 1,
        "category_id": 1,
        "bbox": [4, 5, 10, 8],
        "area": 50,
        "iscrowd": 1,
        "segmentation": TRIANGLE,
    }
    assert written[0] == {"id": 1, **expected, "keypoints": [0] * 9, "num_keypoints": 0, **dense}
    assert written[1]["keypoints"] == [1, 2, 2, 3, 4, 1, 0, 0, 0]
    assert written[1]["num_keypoints"] == 2
    categories = indexed(labelled).cats
    assert categories[2]["skeleton"] == [[1, 2], [1, 3]]
    again = coco_set.folder / "again.json"
    again.write_text(json.dumps(coco(labelled)))
    assert coco(read_coco_objects(again)) == coco(labelled)


def test_keypoints_with_a_wrong_number_count_as_none(coco_set: Any) -> None:
    coco_set.content["categories"][0]["keypoints"] = ["a", "b"]
    coco_set.content["annotations"][0]["keypoints"] = [1, 2, 2]
    coco_set.content["annotations"][1]["keypoints"] = [1, 2, 2, 3, float("nan"), 2]
    labelled = read_coco_objects(coco_set.write())
    assert all((one.keypoints == 0).all() for one in labelled.objects if one.keypoints is not None)
    assert any("other than 2 x 3" in finding and ": 2," in finding for finding in labelled.findings)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("nose", "left_eye", "right_eye"), ((1, 2),)),
        (("eye left", "eye right", "tail"), ((0, 1),)),
        (("R-Knee", "L-Knee", "l_hip", "r_hip"), ((1, 0), (2, 3))),
        (("left_only", "bright_eye", "bleft_eye"), ()),
    ],
)
def test_flip_pairs_come_from_names(names: tuple[str, ...], pairs: tuple[tuple[int, int], ...]) -> None:
    assert flip_pairs(names) == pairs


def test_boxes_are_cut_or_dropped_and_counted(coco_set: Any) -> None:
    coco_set.content["annotations"] = [
        box(1, 10, 3, [-5, 20, 20, 30]),  # reaches outside
        box(2, 10, 3, [4.2, 5.5, 35.9, 3]),  # a rounding error outside
        box(3, 10, 3, [50, 5, 10, 8]),  # wholly outside
        box(4, 10, 3, [5, 5, 0.5, 8]),  # thin
        box(5, 10, 3, [20, 5, -10, 8]),
        box(6, 10, 3, [1, 2, float("nan"), 4]),
        box(7, 10, 3, [1, 2, float("inf"), 4]),
        box(8, 10, 3, [1, 2, 3]),
        box(9, 10, 3, ["1", 2, 3, 4]),
        box(10, 10, 3, None),
        box(11, 10, 3, [1, 2, True, 4]),
        box(12, 10, 3, [1, 2, 10**400, 4]),
    ]
    labelled = read_coco_objects(coco_set.write())
    np.testing.assert_allclose(labelled.objects[0].boxes, [[0, 20, 15, 30], [4.2, 5.5, 40, 8.5]])
    counts = {finding.split(":")[0]: int(finding.split(": ")[1].split(",")[0]) for finding in labelled.findings[1:]}
    assert counts == {
        "boxes that reached outside their image, cut": 1,
        "boxes less than a pixel wide or high inside their image, dropped": 3,
        "annotations without a box of four finite numbers, dropped": 7,
    }
    assert len(labelled) == 2, "images without objects stay"


@pytest.mark.parametrize(("given", "taken"), [(1e11, 80), (40 * 30 + 1, 80), (40 * 30, 1200), (float("nan"), 80)])
def test_an_area_larger_than_the_image_is_that_of_the_box(coco_set: Any, given: float, taken: float) -> None:
    coco_set.content["annotations"][0]["area"] = given
    labelled = read_coco_objects(coco_set.write())
    assert [one.area.tolist() for one in labelled.objects] == [[taken], [50]]
    said = "objects without a valid area; that of their mask or box taken: 1, such as annotation 1 of 0.png"
    assert (said in labelled.findings) == (given != taken)


def test_missing_areas_come_from_mask_or_box(coco_set: Any) -> None:
    for one in coco_set.content["annotations"]:
        del one["area"]
    coco_set.content["annotations"][0]["area"] = -3
    labelled = read_coco_objects(coco_set.write())
    assert [one.area.tolist() for one in labelled.objects] == [[80], [80]]
    for one in coco_set.content["annotations"]:
        one["segmentation"] = TRIANGLE
    labelled = read_coco_objects(coco_set.write())
    assert labelled.objects[0].area.tolist() == [labelled.mask(0, 0).sum()]


def test_masks_are_all_or_nothing(many: Any) -> None:
    annotations = many.content["annotations"]
    for one in annotations[1:]:
        one["segmentation"] = TRIANGLE
    labelled = read_coco_objects(many.write())
    assert labelled.has_masks
    assert all(len(one.masks) == len(one.labels) == (i != 0) for i, one in enumerate(labelled.objects))
    assert any(finding.startswith("1 of 40 objects have no valid mask") for finding in labelled.findings)
    for one in annotations[:20]:
        one["segmentation"] = []
    labelled = read_coco_objects(many.write())
    assert not labelled.has_masks
    assert sum(len(one.labels) for one in labelled.objects) == 40
    assert any(finding.startswith("20 of 40 objects have no mask") for finding in labelled.findings)


def test_annotations_that_belong_nowhere_are_dropped(coco_set: Any) -> None:
    more = [box(8, 99, 3, [1, 2, 3, 4]), box(8, 10, 5, [1, 2, 3, 4]), box(9, [1], 3, [1, 2, 3, 4])]
    coco_set.content["annotations"] += more
    labelled = read_coco_objects(coco_set.write())
    assert sum(len(one.labels) for one in labelled.objects) == 2
    found = " ".join(labelled.findings)
    assert "annotations of unknown images, dropped: 2" in found
    assert "annotations of unknown categories, dropped: 1" in found
    assert "annotation ids that occur more than once; the objects kept: 1" in found
    coco_set.content["annotations"] = [box(1, "10", 3, [1, 2, 3, 4])]
    with pytest.raises(InputError, match=r"none of the 1 annotations belongs .* another type"):
        read_coco_objects(coco_set.write())


def test_images_listed_twice_are_joined(coco_set: Any) -> None:
    images, annotations = coco_set.content["images"], coco_set.content["annotations"]
    images += [{**images[0]}, {**images[0], "id": 77, "file_name": f"./{images[0]['file_name']}"}]
    annotations += [{**annotations[1], "id": 5, "image_id": 77}, box(6, 77, 3, [0, 0, 9, 9])]
    labelled = read_coco_objects(coco_set.write())
    assert [len(one.labels) for one in labelled.objects] == [1, 2]
    assert "images listed again with the same id, once counted: 1, such as 1.png" in labelled.findings
    assert "images listed again with another id; objects joined, equal ones once: 1, such as 1.png" in labelled.findings
    images += [{**images[0], "file_name": "0.png"}]
    with pytest.raises(InputError, match=re.escape("image id 11 is both 1.png and 0.png")):
        read_coco_objects(coco_set.write())


def test_equal_objects_of_an_image_listed_once_stay(coco_set: Any) -> None:
    coco_set.content["annotations"] += [box(5, 10, 3, [4, 5, 10, 8])]
    assert len(read_coco_objects(coco_set.write()).objects[0].labels) == 2


def test_categories_with_one_name_are_told_apart(coco_set: Any) -> None:
    coco_set.content["categories"] += [{"id": 4, "name": "dog"}, {"id": 7, "name": "dog"}]
    assert read_coco_objects(coco_set.write()).classes == ("cat", "dog (4)", "dog (7)")


def test_a_few_unusable_images_are_left_out_and_counted(many: Any) -> None:
    (many.folder / "5.png").unlink()
    (many.folder / "6.png").write_bytes(b"nothing")
    labelled = read_coco_objects(many.write())
    assert len(labelled) == len(labelled.objects) == len(labelled.sizes) == 38
    assert any("cannot be used were left out: 2, such as 5.png, which is missing" in one for one in labelled.findings)
    many.content["images"][0]["width"] = 80
    with pytest.raises(InputError, match=r"(?s)3 of the 40 images .*39.png: is 40 x 30 pixels, .* are for 80 x 30"):
        read_coco_objects(many.write())


def test_images_in_no_known_folder_are_an_error(coco_set: Any) -> None:
    file = coco_set.write()
    for image in coco_set.folder.glob("*.png"):
        image.unlink()
    with pytest.raises(InputError, match=r"the images of .* were not found, such as '0.png'"):
        read_coco_objects(file)


def test_a_folder_of_images_may_be_given(coco_set: Any, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file = coco_set.write().rename(tmp_path / "elsewhere" / "labels.json")
    assert len(read_coco_objects(file, coco_set.folder)) == 2


def test_images_turned_by_exif_have_their_upright_size(coco_set: Any, picture: Any) -> None:
    picture(coco_set.folder / "0.png", 40, 30, orientation=6)
    labelled = read_coco_objects(coco_set.write())
    assert labelled.sizes.tolist() == [[30, 40], [40, 30]]
    assert labelled.images.load(0).size == (30, 40)
    assert any("turned by their EXIF orientation" in finding for finding in labelled.findings)
    coco_set.content["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": [1200]}
    with pytest.raises(InputError, match="its upright image is 40 x 30"):
        read_coco_objects(coco_set.write())


def test_upright_sizes_of_turned_images_are_no_finding(coco_set: Any, picture: Any) -> None:
    picture(coco_set.folder / "0.png", 40, 30, orientation=6)
    coco_set.content["images"][1] |= {"width": 30, "height": 40}
    assert not any("EXIF" in finding for finding in read_coco_objects(coco_set.write()).findings)


def test_missing_sizes_come_from_the_files(coco_set: Any) -> None:
    for image in coco_set.content["images"]:
        image |= {"width": "40", "height": None}
    labelled = read_coco_objects(coco_set.write())
    assert labelled.sizes.tolist() == [[40, 30]] * 2
    assert "the file's own taken: 2" in " ".join(labelled.findings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a json file, or is cut short"),
        ("[" * 100_000, "is not a json file"),
        ("\x00\xff", "is not a json file"),
        ("[1, 2]", "found list"),
        ('{"images": [], "annotations": []}', "'categories' is not a list"),
        ('{"images": [3], "annotations": [], "categories": []}', "'images' is not a list of these"),
        ('{"images": [], "annotations": [], "categories": [{}]}', "lists no images"),
        ('{"images": [{}], "annotations": [], "categories": []}', "lists no categories"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "an image needs an id"),
        ('{"images": [{}], "annotations": [], "categories": [{"id": "1", "name": "a"}]}', "a category needs a whole"),
        ('{"images": [{}], "annotations": [], "categories": [{"id": true, "name": "a"}]}', "a category needs a whole"),
        (
            '{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "category 1 is both 'a' and 'b'",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "labels.json"
    file.write_text(content, "latin-1")
    with pytest.raises(InputError, match=re.escape(message)):
        read_coco_objects(file)


def test_a_set_without_any_object_is_refused(coco_set: Any) -> None:
    coco_set.content["annotations"] = []
    with pytest.raises(InputError, match="not one object that can be used"):
        read_coco_objects(coco_set.write())
    coco_set.content["annotations"] = [box(1, 10, 3, [50, 50, 9, 9])]
    with pytest.raises(InputError, match=r"less than a pixel wide or high .*: 1, such as annotation 1 of 0.png"):
        read_coco_objects(coco_set.write())


def test_a_subset_keeps_what_belongs_together(many: Any) -> None:
    many.content["annotations"][3]["bbox"] = [0, 0, 40, 30]
    labelled = read_coco_objects(many.write())
    place = list(labelled.images.names).index("3.png")
    part = labelled.subset([place, 0])
    assert list(part.images.names) == ["3.png", "0.png"]
    assert part.objects[0].boxes.tolist() == [[0, 0, 40, 30]]
    assert coco(part)["images"][0] == {"id": 1, "file_name": "3.png", "width": 40, "height": 30}
