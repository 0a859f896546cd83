"""Protocols by name, and the papers' rows beside them."""

import re
from pathlib import Path

import pytest
from PIL import Image

from regionssl.config import read_yaml
from regionssl.errors import InputError
from regionssl.evaluation.published import published, published_rows
from regionssl.evaluation.tasks import (
    PROTOCOLS,
    TASKS,
    find_task,
    load_protocol,
    open_data,
    protocol_names,
    with_settings,
)

METRICS = {
    "detection": {"box_ap", "box_ap50", "box_ap75"},
    "instance_segmentation": {f"{kind}_{name}" for kind in ("box", "mask") for name in ("ap", "ap50", "ap75")},
    "keypoints": {"keypoint_ap"},
    "segmentation": {"mIoU"},
    "linear": {"top1"},
    "finetune": {"top1", "top5"},
    "svm": {"map", *(f"map_{shots}" for shots in (1, 2, 4, 8, 16, 32, 64, 96))},
    "unsupervised_objects": {"oracle_miou"},
}


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_makes_an_evaluator(name: str) -> None:
    task = read_yaml(PROTOCOLS / f"{name}.yaml")["task"]
    protocol = load_protocol(task, name)
    assert protocol.evaluator.task == task
    assert protocol.name == name
    assert protocol.about.summary


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_a_protocol_of_its_own(task: str) -> None:
    assert load_protocol(task).name == TASKS[task].protocol
    assert TASKS[task].config.__name__.endswith("Task")


def test_published_rows_belong_to_protocols_and_name_their_metrics() -> None:
    owners = {name: task for task in TASKS for name in protocol_names(task)}
    for name, rows in published().items():
        task = owners[name]
        for row in rows:
            assert set(row.metrics) <= METRICS[task], (name, row)
            assert all(0 < value < 100 for value in row.metrics.values())
            assert row.verified or row.note, (name, row)
            if re.search("recall|third party|deduced", row.source):
                assert not row.verified


def test_some_published_numbers() -> None:
    plrc = next(row for row in published_rows("voc0712_c4_24k") if row.method == "PLRC")
    assert plrc.metrics == {"box_ap": 58.2, "box_ap50": 82.7, "box_ap75": 65.1}
    assert plrc.verified
    r2o = {row.metrics["mIoU"]: row.verified for row in published_rows("voc_fcn") if row.method == "R2O"}
    assert r2o == {77.3: True, 76.7: True}
    scrl = [row.metrics["mask_ap"] for row in published_rows("coco_fpn_1x") if row.method == "SCRL" and row.verified]
    assert scrl == [37.50, 37.92]
    assert published_rows("pixel_probe") == ()


def test_settings_go_over_a_protocol(tmp_path: Path) -> None:
    assert load_protocol("pixel_probe", None, ["short_side=96", "maps=[c4]"]).settings["short_side"] == 96
    own = tmp_path / "own.yaml"
    own.write_text("task: pixel_probe\nabout: {summary: mine, source: own, data: any}\npixels: 10\n")
    protocol = load_protocol("pixel_probe", str(own))
    assert (protocol.name, protocol.settings["pixels"]) == ("own", 10)
    assert with_settings(protocol.evaluator, {"pixels": 20}).pixels == 20  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="greater than or equal to 1"):
        with_settings(protocol.evaluator, {"pixels": 0})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("detecton",), "unknown task 'detecton'; did you mean detection"),
        (("detection", "voc_fcn"), "voc_fcn.yaml is a protocol of the task segmentation, and --task says detection"),
        (("detection", "detection_smal"), "no protocol or file called 'detection_smal'; did you mean detection_small"),
        (("pixel_probe", None, ["pixls=3"]), "unknown key 'pixls'; did you mean pixels"),
        (("pixel_probe", "nowhere.yaml"), "cannot read the recipe nowhere.yaml"),
    ],
)
def test_bad_protocols_are_sentences(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        load_protocol(*arguments)


def test_label_free_tasks_take_plain_images(tmp_path: Path) -> None:
    for i in range(4):
        Image.new("RGB", (40, 40), (i * 60, 0, 0)).save(tmp_path / f"{i}.png")
    data = open_data(find_task("correspondence"), tmp_path)
    assert len(data.train) + len(data.val) == 4
    assert data.train.classes == ("image",)
    with pytest.raises(InputError):
        open_data(find_task("pixel_probe"), tmp_path)
