"""Configs for detectron2 and mmdetection: what they say is what the protocols, the file and the papers say."""

import ast
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from regionssl import InputError, export
from regionssl.evaluation.tasks import protocol_names
from regionssl.export import detectron2_config, mmdetection_config
from regionssl.export.published import PROTOCOLS
from regionssl.verbs.export_configs import config_names, published


@pytest.fixture(scope="module")
def exported(tmp_path_factory, _runs) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    run = _runs("resnet50", 16, False, 0)
    export(run, "detectron2", folder / "rgb.pkl", config=["all"])
    export(run, "detectron2", folder / "bgr.pkl", bgr=True, no_fpn=True, config=["coco_fpn_1x"])
    export(run, "mmdetection", folder / "mm.pth", config=["all"])
    return folder


def d2(folder: Path, name: str, stem: str = "rgb") -> dict[str, Any]:
    return yaml.safe_load((folder / f"{stem}.{name}.yaml").read_text())


def mm(folder: Path, name: str) -> dict[str, Any]:
    """The config as mmengine reads it: the file run in an empty namespace."""
    text = (folder / f"mm.{name}.py").read_text()
    tree = ast.parse(text)
    assert all(isinstance(statement, ast.Assign) for statement in tree.body)
    return {statement.targets[0].id: ast.literal_eval(statement.value) for statement in tree.body}


def test_every_published_detection_protocol_has_its_configs(exported: Path) -> None:
    tasks = ("detection", "instance_segmentation", "keypoints")
    papers = {name for task in tasks for name in protocol_names(task) if not name.endswith("_small")}
    assert set(PROTOCOLS) == papers == set(config_names("detectron2"))
    assert set(config_names("mmdetection")) == papers - {"coco_keypoints"}
    assert {path.name.split(".")[1] for path in exported.glob("rgb.*.yaml")} == papers
    assert {path.name.split(".")[1] for path in exported.glob("mm.*.py")} == papers - {"coco_keypoints"}


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_detectron2_configs_follow_protocol_and_file(exported: Path, name: str) -> None:
    config, settings = d2(exported, name), published(name).settings
    model, solver = config["MODEL"], config["SOLVER"]
    assert model["WEIGHTS"] == "rgb.pkl"
    assert (config["INPUT"]["FORMAT"], model["PIXEL_MEAN"]) == ("RGB", [123.675, 116.28, 103.53])
    assert model["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert (model["RESNETS"]["STRIDE_IN_1X1"], model["RESNETS"]["DEPTH"]) == (False, 50)
    assert model["RESNETS"]["NORM"] == "SyncBN"
    assert model["BACKBONE"]["FREEZE_AT"] == settings["freeze_at"]
    assert (solver["IMS_PER_BATCH"], solver["BASE_LR"]) == (settings["batch_size"], settings["lr"])
    assert (solver["MAX_ITER"], solver["STEPS"]) == (settings["iterations"], [int(drop) for drop in settings["drops"]])
    assert config["INPUT"]["MIN_SIZE_TRAIN"] == list(settings["train_sizes"])
    assert config["TEST"].get("PRECISE_BN", {}).get("ENABLED", False) == bool(settings["precise_norm"])
    if name in ("voc0712_c4_18k", "voc0712_c4_24k", "coco_c4_1x", "coco_c4_2x"):
        normed = name != "voc0712_c4_18k"
        assert model["ROI_HEADS"]["NAME"] == ("Res5ROIHeadsWithNorm" if normed else "Res5ROIHeads")
        assert "FPN" not in model
        assert model["MASK_ON"] == name.startswith("coco")
    else:
        assert (model["FPN"]["OUT_CHANNELS"], model["FPN"]["NORM"]) == (16, "SyncBN")
    text = (exported / f"rgb.{name}.yaml").read_text()
    assert "&id" not in text
    assert all(len(line) < 400 for line in text.splitlines())


def test_values_of_the_papers(exported: Path) -> None:
    """Read off the specifications by hand (ReSim 6.2 and 6.3, ORL 6.5, R2O 7.3, SCRL 6.1)."""
    names = ("voc0712_c4_24k", "coco_fpn_2x", "coco_fpn_orl_1x", "coco_fpn_r2o", "coco_fpn_scrl_1x")
    voc, fpn, orl, r2o, scrl = (d2(exported, name) for name in names)
    assert (voc["MODEL"]["ROI_HEADS"]["NUM_CLASSES"], voc["MODEL"]["MASK_ON"]) == (20, False)
    assert voc["SOLVER"]["STEPS"] == [18000, 22000]
    assert voc["SOLVER"]["WARMUP_ITERS"] == 100
    assert (voc["MODEL"]["RPN"]["PRE_NMS_TOPK_TEST"], voc["MODEL"]["RPN"]["POST_NMS_TOPK_TEST"]) == (6000, 1000)
    assert voc["DATASETS"] == {"TRAIN": ["voc_2007_trainval", "voc_2012_trainval"], "TEST": ["voc_2007_test"]}
    assert (fpn["SOLVER"]["MAX_ITER"], fpn["SOLVER"]["STEPS"]) == (180000, [120000, 160000])
    assert (fpn["MODEL"]["BACKBONE"]["FREEZE_AT"], fpn["MODEL"]["ROI_MASK_HEAD"]["NORM"]) == (2, "")
    assert (orl["MODEL"]["ROI_BOX_HEAD"]["NUM_CONV"], orl["MODEL"]["ROI_BOX_HEAD"]["NUM_FC"]) == (4, 1)
    assert orl["MODEL"]["ROI_BOX_HEAD"]["NORM"] == orl["MODEL"]["ROI_MASK_HEAD"]["NORM"] == "SyncBN"
    assert (r2o["SOLVER"]["IMS_PER_BATCH"], r2o["SOLVER"]["BASE_LR"], r2o["SOLVER"]["WEIGHT_DECAY"]) == (64, 0.1, 4e-5)
    heads = (scrl["MODEL"]["ROI_BOX_HEAD"], scrl["MODEL"]["ROI_MASK_HEAD"])
    assert ([head["NORM"] for head in heads], heads[0]["NUM_FC"]) == (["SyncBN", "SyncBN"], 2)
    assert scrl["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0
    keypoints = d2(exported, "coco_keypoints")["MODEL"]
    assert (keypoints["KEYPOINT_ON"], keypoints["RPN"]["POST_NMS_TOPK_TRAIN"]) == (True, 1500)
    assert keypoints["ROI_BOX_HEAD"]["SMOOTH_L1_BETA"] == 0.5


def test_bgr_without_pyramid(exported: Path) -> None:
    config = d2(exported, "coco_fpn_1x", "bgr")
    assert (config["INPUT"]["FORMAT"], config["MODEL"]["PIXEL_MEAN"]) == ("BGR", [103.53, 116.28, 123.675])
    assert "OUT_CHANNELS" not in config["MODEL"]["FPN"]
    with_it, without = ((exported / f"{stem}.coco_fpn_1x.yaml").read_text() for stem in ("rgb", "bgr"))
    assert "its biases are passed over" in with_it
    assert "pyramid" not in without


@pytest.mark.parametrize("name", sorted(set(PROTOCOLS) - {"coco_keypoints"}))
def test_mmdetection_configs_follow_protocol_and_file(exported: Path, name: str) -> None:
    config, settings = mm(exported, name), published(name).settings
    model, backbone = config["model"], config["model"]["backbone"]
    assert model["data_preprocessor"]["bgr_to_rgb"] is True
    assert model["data_preprocessor"]["mean"] == [123.675, 116.28, 103.53]
    assert (backbone["style"], backbone["depth"]) == ("pytorch", 50)
    assert backbone["norm_cfg"] == {"type": "SyncBN", "requires_grad": True}
    assert backbone["frozen_stages"] == settings["freeze_at"] - 1
    assert backbone["init_cfg"] == {"type": "Pretrained", "checkpoint": "mm.pth", "prefix": "backbone."}
    assert config["train_cfg"]["max_iters"] == settings["iterations"]
    assert config["param_scheduler"][1]["milestones"] == [int(drop) for drop in settings["drops"]]
    assert 8 * config["train_dataloader"]["batch_size"] == settings["batch_size"]
    assert config["optim_wrapper"]["optimizer"]["lr"] == settings["lr"]
    if "neck" in model:
        assert model["neck"]["out_channels"] == model["rpn_head"]["in_channels"] == 16
        assert model["neck"]["init_cfg"][-1]["prefix"] == "neck."
        assert model["roi_head"]["bbox_head"]["in_channels"] == 16
    else:
        assert (backbone["num_stages"], model["rpn_head"]["in_channels"]) == (3, 1024)
        assert model["roi_head"]["shared_head"]["init_cfg"] == backbone["init_cfg"]
        normed = name != "voc0712_c4_18k"
        assert model["roi_head"]["shared_head"]["type"] == ("NormedResLayer" if normed else "ResLayer")
        assert config.get("custom_imports", {}).get("imports") == (["regionssl_mmdetection"] if normed else None)
    assert ("mask_head" in model["roi_head"]) == (published(name).task == "instance_segmentation")
    steps = [step["type"] for step in pipeline(config)]
    assert ("RandomCrop" in steps) == name.startswith("coco_fpn_r2o")


def pipeline(config: dict[str, Any]) -> list[dict[str, Any]]:
    data = config["train_dataloader"]["dataset"]
    return data.get("datasets", [data])[0]["pipeline"]


def test_parts_run_beside_stand_ins_of_the_libraries(exported: Path, monkeypatch) -> None:
    registered: dict[str, type] = {}

    class Registry:
        def register(self):
            return lambda one: registered.setdefault(one.__name__, one)

        register_module = register

    class Heads:
        @classmethod
        def _build_res5_block(cls, cfg):
            from torch import nn

            return nn.Sequential(nn.Identity()), 8

    class ResLayer:
        def __init__(self, norm_cfg, depth):
            self.depth = depth

        def forward(self, x):
            return x

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    from torch import nn

    for name in ("detectron2", "detectron2.data", "mmdet", "mmdet.models", "mmdet.models.roi_heads", "mmcv"):
        module(name)
    names = ("ResizeScale", "FixedSizeCrop", "RandomFlip")
    module("detectron2.data.transforms", **{name: lambda *given, name=name: (name, *given) for name in names})
    sys.modules["detectron2.data"].transforms = sys.modules["detectron2.data.transforms"]
    sys.modules["detectron2"].data = sys.modules["detectron2.data"]
    module("detectron2.layers", get_norm=lambda norm, channels: nn.BatchNorm2d(channels))
    module("detectron2.modeling", ROI_HEADS_REGISTRY=Registry(), Res5ROIHeads=Heads)
    module("mmcv.cnn", build_norm_layer=lambda cfg, channels: ("bn", lambda x: (cfg["type"], channels, x)))
    module("mmdet.models.roi_heads.shared_heads", ResLayer=ResLayer)
    module("mmdet.registry", MODELS=Registry())
    space: dict[str, Any] = {}
    exec((exported / detectron2_config.PARTS).read_text(), space)
    exec((exported / mmdetection_config.PARTS).read_text(), space)
    config = type("C", (), {"MODEL": type("M", (), {"RESNETS": type("R", (), {"NORM": "BN"})})})
    stage, channels = registered["Res5ROIHeadsWithNorm"]._build_res5_block(config)
    assert (type(stage.norm).__name__, stage.norm.num_features, channels) == ("BatchNorm2d", 8, 8)
    assert space["jittered_squares"](512, 0.5, 2.0)[0] == ("ResizeScale", 0.5, 2.0, 512, 512)
    head = registered["NormedResLayer"](norm_cfg={"type": "SyncBN"}, depth=50)
    assert head.forward("map") == ("SyncBN", 2048, "map")


def test_a_config_that_was_edited_is_kept(make_run, tmp_path: Path) -> None:
    out, run = tmp_path / "r.pkl", make_run()
    export(run, "detectron2", out, config=["coco_fpn_1x"])
    before = out.read_bytes()
    export(run, "detectron2", out, config=["coco_fpn_1x"])
    with (tmp_path / "r.coco_fpn_1x.yaml").open("a") as file:
        file.write("SEED: 1\n")
    with pytest.raises(InputError, match=r"r\.coco_fpn_1x\.yaml exists and says something else"):
        export(make_run(seed=1), "detectron2", out, config=["coco_fpn_1x"])
    assert out.read_bytes() == before
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["MODEL.RESNETS.RES2_OUT_CHANNELS"] == 64
