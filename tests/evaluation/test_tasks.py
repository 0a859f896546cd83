"""Protocols by name, and the papers' rows beside them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionssl.config import read_yaml
from regionssl.data.scenes import write_scenes
from regionssl.errors import InputError
from regionssl.evaluation.outcome import Outcome, Shares
from regionssl.evaluation.published import published, published_rows
from regionssl.evaluation.tasks import (
    PROTOCOLS,
    TASKS,
    find_task,
    load_protocol,
    open_data,
    protocol_names,
    protocols,
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
    assert published_rows("pixel_probe") == ()


def test_rows_stand_with_the_protocol_that_they_are_of() -> None:
    """SCRL 6.1 to 6.4, PLRC 6.2, ReSim 6.3 and 6.6."""
    scrl = [row for row in published_rows("coco_fpn_scrl_1x") if row.verified]
    assert {row.source for row in scrl} == {"SCRL README"}
    assert [row.metrics["mask_ap"] for row in scrl] == [28.70, 35.44, 35.96, 37.16, 37.50, 37.92]
    resim = published_rows("coco_fpn_1x")
    assert not {row.method for row in resim} & {"SCRL", "BYOL", "PixPro", "SimCLR"}
    assert {row.source for row in resim if row.verified} == {"table 1 of the MLS paper, quoting the literature"}
    assert [row.metrics["box_ap75"] for row in resim if row.method == "random"] == [33.2]
    pixpro = {row.method for row in published_rows("coco_fpn_orl_1x") if row.source == "PixPro repository"}
    assert pixpro == {"random", "supervised", "MoCo v1", "MoCo v2", "SimCLR", "InfoMin", "PixPro"}
    for name, box_ap in (("voc0712_fpn_18k", 57.2), ("coco_faster_fpn_1x", 26.4)):
        row = next(row for row in published_rows(name) if row.metrics["box_ap"] == box_ap)
        assert (row.method, row.epochs, row.verified) == ("SCRL", None, False)


@pytest.mark.parametrize("name", sorted(published()))
def test_rows_are_verified_where_the_settings_are_known(name: str) -> None:
    """A number that was read is not verified where the settings of its repository are not those of the protocol."""
    others = {"coco_c4_1x", "coco_fpn_1x", "coco_fpn_orl_1x", "voc_fcn"}
    for row in published_rows(name):
        if row.source.endswith("repository") and name in others:
            assert not row.verified
            assert "read there" in row.note


def test_values_of_the_specifications() -> None:
    """Read off by hand: SCRL 6.1 and 6.2, R2O 7.3, PLRC 6.2, ReSim 6.4."""
    scrl = load_protocol("instance_segmentation", "coco_fpn_scrl_1x").settings
    assert [scrl[part] for part in ("norm", "fpn_norm", "box_head_norm", "mask_head_norm")] == ["batch"] * 4
    assert (scrl["box_head"], scrl["freeze_at"], scrl["precise_norm"]) == ("two_fc", 0, 0)
    for name in ("voc0712_c4_18k", "voc0712_fpn_18k"):
        voc = load_protocol("detection", name).settings
        assert (voc["iterations"], voc["drops"], voc["warmup"], voc["lr"]) == (18_000, [12_000, 16_000], 100, 0.02)
        assert (voc["train_sizes"][0], voc["train_sizes"][-1], voc["metric"]) == (480, 800, "voc07")
    r2o = load_protocol("instance_segmentation", "coco_fpn_r2o").settings
    twice = load_protocol("instance_segmentation", "coco_fpn_r2o_2x").settings
    assert twice == r2o | {"iterations": 48_000, "drops": [32_000, 42_666]}
    plrc = load_protocol("segmentation", "cityscapes_fcn_40k").settings
    assert (plrc["head"], plrc["output_stride"], plrc["crop"]["size"], plrc["iterations"]) == ("fcn", 8, 769, 40_000)
    assert load_protocol("dense_pose", "densepose_s1x").settings["freeze_at"] == 2


def test_all_protocols_are_listed_by_task() -> None:
    listed = protocols()
    assert sorted(one.name for one in listed) == protocol_names()
    assert list(dict.fromkeys(one.evaluator.task for one in listed)) == list(TASKS)


def test_settings_go_over_a_protocol(tmp_path: Path) -> None:
    assert load_protocol("pixel_probe", None, ["short_side=96", "maps=[c4]"]).settings["short_side"] == 96
    own = tmp_path / "own.yaml"
    own.write_text("task: pixel_probe\nabout: {summary: mine, source: own, data: any}\npixels: 10\n")
    protocol = load_protocol("pixel_probe", str(own))
    assert (protocol.name, protocol.settings["pixels"]) == ("own", 10)
    assert with_settings(protocol.evaluator, {"pixels": 20}).pixels == 20  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="greater than or equal to 1"):
        with_settings(protocol.evaluator, {"pixels": 0})


def test_changed_settings_are_told(tmp_path: Path) -> None:
    assert load_protocol("segmentation", "ade20k_fcn").changes == ()
    assert load_protocol("segmentation", "ade20k_fcn", ["iterations=80000"]).changes == ()
    assert load_protocol("detection", "voc0712_c4_24k", ["pictures=0"]).changes == (), "decides no number"
    changed = load_protocol("segmentation", "ade20k_fcn", ["iterations=1", "crop.size=64", "warmup=5"])
    assert changed.changes == ("crop.size: 512 -> 64", "iterations: 80000 -> 1", "warmup: 0 -> 5")


def test_a_file_is_compared_with_the_protocol_that_it_is_called_like(tmp_path: Path) -> None:
    text = (PROTOCOLS / "ade20k_fcn.yaml").read_text().replace("iterations: 80000", "iterations: 7")
    for name, changes in (("ade20k_fcn", ("iterations: 80000 -> 7",)), ("mine", ())):
        (tmp_path / f"{name}.yaml").write_text(text)
        assert load_protocol("segmentation", str(tmp_path / f"{name}.yaml")).changes == changes


@pytest.mark.parametrize("task", ["detection", "instance_segmentation", "keypoints", "dense_pose", "segmentation"])
@pytest.mark.parametrize("drop", [-5, 0])
def test_the_rate_drops_after_the_beginning(task: str, drop: int) -> None:
    with pytest.raises(InputError, match=r"drops\.0: Input should be greater than 0"):
        load_protocol(task, None, [f"drops=[{drop}]"])


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
    assert len(data.val) == 4
    assert data.train is data.val
    assert data.train.classes == ("image",)
    with pytest.raises(InputError):
        open_data(find_task("pixel_probe"), tmp_path)


def test_tasks_that_train_nothing_score_all_images_where_there_is_no_split(tmp_path: Path) -> None:
    write_scenes(tmp_path, 10, size=48)
    for name in ("unsupervised_objects", "correspondence"):
        task = find_task(name)
        assert not task.trains
        data = open_data(task, tmp_path)
        assert len(data.val) == 10
        assert data.train is data.val
    assert len(open_data(find_task("pixel_probe"), tmp_path).val) == 2
    assert len(open_data(find_task("correspondence"), tmp_path / "images").val) == 10


def test_tasks_that_train_nothing_score_the_validation_part_of_a_split(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 3)):
        write_scenes(tmp_path / split, count, size=48, seed=count)
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / split / kind).rename(tmp_path / kind / split)
    data = open_data(find_task("unsupervised_objects"), tmp_path)
    assert (len(data.train), len(data.val)) == (5, 3)


def test_labels_that_cannot_be_used_are_spoken_of_alone(tmp_path: Path) -> None:
    task = find_task("unsupervised_objects")
    write_scenes(tmp_path, 1, size=48)
    (tmp_path / "annotations.json").unlink()
    for path in (tmp_path / "labels").iterdir():
        Image.new("L", (48, 48), 1).save(path)
    with pytest.raises(InputError) as raised:
        open_data(task, tmp_path)
    assert str(raised.value).startswith("only '1' is labelled in the maps of ")
    with pytest.raises(InputError) as raised:
        open_data(task, tmp_path / "none")
    assert str(raised.value) == f"there is no folder or file {tmp_path / 'none'} with labels"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"(?s)as maps: no label maps in .*as objects: no labels of objects in"):
        open_data(task, tmp_path / "empty")


def test_an_outcome_without_its_primary_metric_is_a_sentence() -> None:
    with pytest.raises(InputError, match="box_ap has no value on these 3 validation images"):
        Outcome("box_ap", {"box_ap50": 1.0}, {}, Shares(np.ones(3), np.ones(3)), {}, 0.0)
