"""The page of runs: finished, running, broken, moved, several; and that every run leaves one."""

import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from regionssl import InputError, make_report, pretrain
from regionssl.data.images import ImageList
from regionssl.engine.log import read_log
from regionssl.verbs import report as report_verb
from regionssl.verbs.learned import START, maps_of, networks_of, segments
from regionssl.verbs.subject import open_run

from page_reader import Reader

TINY = str(Path(__file__).parents[1] / "tiny.yaml")
EVERYWHERE = [
    "Health", "Curves", "What resim sees", "Features over training", "What matches a point", "Nearest regions",
    "Segments without labels", "Settings", "This page",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 6 steps with checkpoints at 2, 4 and 6, which has left its page; its name needs escaping."""
    folder = tmp_path_factory.mktemp("reported") / "a <run> & more"
    return pretrain(scenes, folder, recipe=TINY, steps=6, save_every=2, set=["training.report=true"])


def page_of(path: Path) -> Reader:
    return Reader(path.read_text())


def said(page: Reader) -> str:
    return " ".join(page.text.split())


def test_every_run_leaves_a_whole_page(run: Path) -> None:
    page = page_of(run / "report.html")
    assert page.open == []
    assert page.headings == EVERYWHERE
    text = said(page)
    assert "Not on this page" not in text
    assert "a <run> & more" in text
    assert "Finished: 6 steps" in text
    assert "random start; step 2, epoch 0.5; step 4, epoch 1; latest, step 6" in text
    assert "at most 25% of the 32 images" in text, "the reason of an automatic choice"
    assert "usual" in text, "the band of a loss"
    assert (run / "report.html").stat().st_size < 2_000_000


def test_the_page_needs_nothing_else(run: Path) -> None:
    page = page_of(run / "report.html")
    for _, attributes in page.found:
        for name in ("src", "href", "srcset", "action"):
            assert str(attributes.get(name, "#")).startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\(", page.text)
    assert all(str(image.get("alt")) for image in page.all("img"))
    labelled = [one for _, one in page.found if one.get("tabindex") == "0"]
    assert all(one.get("aria-label") or one.get("aria-labelledby") for one in labelled)
    assert len(page.all("canvas")) == 2


def test_the_states_are_the_run_s_own(run: Path) -> None:
    subject = open_run(run, None, None)
    networks, notes = networks_of(subject)
    assert list(networks) == [START, "step 2, epoch 0.5", "step 4, epoch 1", "latest, step 6"]
    assert notes == []
    squares = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    maps = {label: maps_of(network, squares) for label, network in networks.items()}
    found = list(maps.values())
    assert all(one.shape == found[0].shape for one in found)
    assert not any(torch.equal(one, other) for one, other in pairwise(found))
    state = torch.load(run / "checkpoints" / "step-000000006.ckpt", weights_only=True)["method"]
    last = networks["latest, step 6"].body.state_dict()
    key = next(iter(last))
    assert any(torch.equal(tensor, last[key]) for name, tensor in state.items() if name.endswith(key))


def test_segments_are_clusters_of_all_images_together() -> None:
    maps = torch.zeros(2, 2, 4, 4)
    maps[0, 0], maps[1, 1] = 1.0, 1.0
    labels, _ = segments({"one": maps}, 0)["one"]
    assert labels.shape == (2, 28, 28)
    assert len(set(labels[0].flatten())) == len(set(labels[1].flatten())) == 1
    assert labels[0, 0, 0] != labels[1, 0, 0]


def test_a_run_can_go_without(scenes: Path, tmp_path: Path) -> None:
    pretrain(scenes, tmp_path, recipe=TINY, steps=1)  # tiny.yaml asks for none
    assert not (tmp_path / "report.html").exists()


def test_a_fault_of_the_page_does_not_fail_the_run(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> str:
        raise ZeroDivisionError("no pixels")

    monkeypatch.setattr(report_verb, "run_page", broken)
    pretrain(scenes, tmp_path, recipe=TINY, steps=1, set=["training.report=true"])
    assert "no report was made: no pixels; try again with: regionssl report" in capsys.readouterr().out
    assert not (tmp_path / "report.html").exists()
    assert '{"event": "report", "reason": "no pixels"}' in (tmp_path / "log.jsonl").read_text()
    assert len(read_log(tmp_path / "log.jsonl")) == 1


def test_a_fault_of_a_picture_costs_that_picture_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setattr(report_verb, "see", broken)
    page = page_of(make_report([run], tmp_path / "page.html", samples=1))
    assert "views: out of luck" in said(page)
    assert "and more out" not in said(page)
    assert page.headings == [name for name in EVERYWHERE if name != "What resim sees"]


def test_runs_are_compared_on_one_page(run: Path, scenes: Path, tmp_path: Path) -> None:
    other = pretrain(scenes, tmp_path / "other", recipe=TINY, steps=2, seed=1, backbone="test_resnet")
    page = page_of(make_report([run, other], tmp_path / "page.html", samples=2))
    assert page.open == []
    text = said(page)
    assert "Not on this page" not in text
    assert "a <run> & more: random start; a <run> & more: step 2" in text
    assert "other: random start; other: latest, step 2." in text
    assert text.count("Finished:") >= 2
    assert "Settings of other" in page.headings
    groups = {str(one.get("class")) for one in page.all("g")}
    assert {"s0", "s1"} <= groups


def test_a_run_whose_images_are_gone_keeps_curves_and_settings(run: Path, scenes: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    facts = json.loads((moved / "run.json").read_text())
    facts["data"]["source"] = str(tmp_path / "gone")
    (moved / "run.json").write_text(json.dumps(facts))
    page = page_of(make_report([moved]))
    assert page.headings == ["Health", "Curves", "Settings", "This page"]
    assert "gone, which does not exist; name their place with --data" in said(page)
    shutil.copytree(scenes, tmp_path / "images")
    assert page_of(make_report([moved], data=tmp_path / "images")).headings == EVERYWHERE


def test_a_run_that_goes_on_says_how_far_it_is(run: Path, tmp_path: Path) -> None:
    young = tmp_path / "young"
    young.mkdir()
    for name in ("config.yaml", "run.json"):
        shutil.copy(run / name, young)
    lines = (run / "log.jsonl").read_text().splitlines()
    (young / "log.jsonl").write_text("\n".join([*lines[:3], "[1, 2]", '{"event": "health", "st']))
    text = said(page_of(make_report([young], samples=1)))
    assert "3 of 6 steps done" in text
    assert "the run has no weights yet" in text


def broken_copy(run: Path, folder: Path, name: str, content: bytes | None) -> Path:
    shutil.copytree(run, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


BROKEN = [
    ("config.yaml", None),
    ("config.yaml", b"a: [1"),
    ("run.json", b""),
    ("run.json", b"[]"),
    ("log.jsonl", None),
    ("log.jsonl", b"\xff\xfe\x00"),
    ("weights.json", b""),
    ("weights.json", b"[]"),
]


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_a_broken_file_is_named_on_a_whole_page(name: str, content: bytes | None, run: Path, tmp_path: Path) -> None:
    folder = broken_copy(run, tmp_path / "broken", name, content)
    page = page_of(make_report([folder], samples=1))
    assert page.open == []
    assert page.headings[0] == "Health"
    assert "Not on this page" in said(page)


def test_broken_weights_and_checkpoints_are_named(run: Path, tmp_path: Path) -> None:
    folder = broken_copy(run, tmp_path / "broken", "checkpoints/step-000000002.ckpt", b"no checkpoint")
    text = said(page_of(make_report([folder], samples=1)))
    assert "the state of step 2:" in text
    assert "random start; step 4, epoch 1; latest, step 6" in text
    (folder / "weights.safetensors").write_bytes(b"none")
    text = said(page_of(make_report([folder], samples=1)))
    assert "weights.safetensors cannot be read" in text


def test_what_cannot_be_reported_is_refused(run: Path, images: ImageList, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run folder: it holds no config\.yaml, run\.json or log\.jsonl"):
        make_report([tmp_path])
    with pytest.raises(InputError, match="name a file with --out"):
        make_report([run, run])
    with pytest.raises(InputError, match="is a folder; give the name of a file"):
        make_report([run], tmp_path)
    with pytest.raises(InputError, match="--samples"):
        make_report([run], samples=0)
