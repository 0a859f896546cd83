"""Half precision: whole runs of every method, close to those in float32, on any processor."""

from pathlib import Path

import pytest
import torch

from regionssl.data.images import find_images, scan
from regionssl.data.scenes import write_scenes
from regionssl.engine.precision import Autocast, precision_plugin
from regionssl.engine.train import TrainingConfig
from regionssl.verbs.job import build_trainer, launch, make_job

from method_variants import VARIANTS, config_of, made_up_patches

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("precision")
    write_scenes(place, 16, size=96, labels=False)
    return place / "images"


def losses(variant: str, folder: Path, precision: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of a few steps as ``pretrain`` makes them, and the trained network's weights."""
    images, scanned = scan(find_images(folder))
    training = TrainingConfig(batch_size=8, steps=STEPS, precision=precision, workers=0, log_every=1)  # type: ignore[arg-type]
    config = config_of(variant).model_copy(update={"training": training})
    job = make_job(config, images, scanned, folder, torch.device("cpu"))
    patches = made_up_patches(len(images)) if config.method.plan.wants_patches else None
    trainer = build_trainer(job, launch(job))
    trainer.patches = patches  # type: ignore[assignment]
    found = [float(trainer.train_step(batch)["loss"]) for batch in trainer.loader(STEPS)]
    trainer.settle()
    return found, dict(trainer.method.backbone.named_parameters())


@pytest.mark.parametrize(
    ("precision", "variant"), [*(("bf16", variant) for variant in VARIANTS), ("fp16", "moco"), ("fp16", "scrl")]
)
def test_half_precision_follows_float32(precision: str, variant: str, folder: Path) -> None:
    exact, _ = losses(variant, folder, "fp32")
    rounded, weights = losses(variant, folder, precision)
    assert rounded != exact, "nothing was rounded"
    assert rounded[0] == pytest.approx(exact[0], rel=0.03)
    assert rounded == pytest.approx(exact, rel=0.2)
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in weights.values())


def test_a_batch_enters_the_network_unrounded() -> None:
    """Crops lie in float64: rounded to bfloat16, a box of 1000 px would move by up to 4 px."""
    plugin = precision_plugin("bf16", "cpu")
    assert isinstance(plugin, Autocast)
    boxes = {"crops": torch.tensor([1001.25], dtype=torch.float64)}
    assert plugin.convert_input(boxes) is boxes
    assert plugin.convert_output(boxes) is boxes
    with plugin.forward_context():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
