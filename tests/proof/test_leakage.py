"""Near-copies are found, and images that have nothing to do with each other are left alone."""

from pathlib import Path

import numpy as np
import pytest
from fake_evaluator import labelled_images, start
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from regionssl.data.hashes import BITS, SHARE, near_by_hash, signs, small_picture, small_pictures
from regionssl.data.images import ImageList, find_images
from regionssl.data.scenes import generate
from regionssl.errors import InputError
from regionssl.labels.sets import Split
from regionssl.proof.leakage import find_leaks, near_by_features, without_leaks
from regionssl.proof.likeness import pooled_features, standardised_features
from regionssl.proof.looking import images_of_run, images_to_compare, look_for_leaks


@pytest.fixture(scope="module")
def originals() -> list[Image.Image]:
    return [Image.fromarray(generate(i, 96).image) for i in range(40)]


def copies(image: Image.Image, folder: Path) -> dict[str, Image.Image]:
    image.save(folder / "copy.jpg", quality=30)
    return {
        "compressed": Image.open(folder / "copy.jpg").convert("RGB"),
        "scaled": image.resize((61, 61)),
        "squashed": image.resize((120, 70)),
        "brighter": ImageEnhance.Brightness(image).enhance(1.2),
        "less contrast": ImageEnhance.Contrast(image).enhance(0.7),
        "mirrored": ImageOps.mirror(image),
    }


def test_copies_are_near_and_others_are_not(originals: list[Image.Image], tmp_path: Path) -> None:
    known = np.stack([small_picture(image) for image in originals])
    for position in (0, 7, 23):
        for kind, copy in copies(originals[position], tmp_path).items():
            found = near_by_hash(known, small_picture(copy)[None])
            assert found.left.tolist() == [position], kind
            assert found.measure.max() <= SHARE
    among = near_by_hash(known, known)
    assert among.left.tolist() == among.right.tolist() == list(range(40))
    assert not among.measure.any()


def test_flat_images_are_like_none() -> None:
    flat = np.full((3, 16, 17), 128, np.uint8)
    flat[1, 4, 5] = 130
    assert not len(near_by_hash(flat, flat).left)


def slow_share(one: np.ndarray, other: np.ndarray) -> float | None:
    """Share of the differing bits of those that both have; None if the two are not near whatever it is."""
    common, differing = 0, 0
    for y in range(16):
        for x in range(16):
            steps = [int(picture[y, x]) - int(picture[y, x + 1]) for picture in (one, other)]
            if all(abs(step) > 1 for step in steps):
                common += 1
                differing += (steps[0] > 0) != (steps[1] > 0)
    alike = common >= 64 and np.corrcoef(one.ravel(), other.ravel())[0, 1] >= 0.9
    return differing / common if alike else None


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 5), st.sampled_from([0.02, 0.05, 0.5]))
def test_pairs_are_those_of_a_plain_loop(seed: int, n: int, m: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(0, 256, (count, 16, 17)).astype(np.uint8) for count in (n, m))
    right[0] = np.clip(left[0].astype(int) + rng.integers(-9, 10, (16, 17)), 0, 255)[:, :: rng.choice([-1, 1])]
    found = near_by_hash(left, right, share)
    expected = {}
    for i in range(n):
        for j in range(m):
            shares = [slow_share(left[i], other) for other in (right[j], right[j][:, ::-1])]
            near = [one for one in shares if one is not None and one <= share]
            if near:
                expected[i, j] = pytest.approx(min(near), abs=1e-6)
    pairs = zip(found.left.tolist(), found.right.tolist(), strict=True)
    assert dict(zip(pairs, found.measure.tolist(), strict=True)) == expected
    assert signs(left).shape == (n, BITS)


def test_empty_lists_have_no_pairs() -> None:
    nothing, some = np.zeros((0, 16, 17), np.uint8), np.zeros((2, 16, 17), np.uint8)
    assert not len(near_by_hash(nothing, some).left)
    assert not len(near_by_hash(some, nothing).left)


def test_features_near_each_other_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = near_by_features(rows, rows, 0.8)
    expected = {(i, j) for i in range(30) for j in range(30) if rows[i] @ rows[j] >= 0.8}
    assert set(zip(found.left.tolist(), found.right.tolist(), strict=True)) == expected


def test_standardised_features_tell_copies_from_a_common_direction() -> None:
    rng = np.random.default_rng(1)
    common = 50 + 10 * rng.normal(size=100)  # raw cosines are all near 1
    one, two = (common + rng.normal(size=(300, 100)) for _ in range(2))
    two[5] = one[9] + 0.02 * rng.normal(size=100)
    one[3] = np.nan
    found = standardised_features({"train": one, "val": two})
    pairs = near_by_features(found["train"], found["val"], 0.95)
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([9], [5])
    assert not found["train"][3].any()


def lists(tmp_path: Path, originals: list[Image.Image]) -> dict[str, ImageList]:
    """Ten images for each of three splits; val 1 copies unlabelled 4, val 2 train 5, and train 6 unlabelled 7."""
    content = {"unlabelled": list(originals[:10]), "train": list(originals[10:20]), "val": list(originals[20:30])}
    content["val"][1] = ImageOps.mirror(content["unlabelled"][4])
    content["val"][2] = content["train"][5].resize((70, 70))
    content["train"][6] = content["unlabelled"][7]
    for split, pictures in content.items():
        (tmp_path / split).mkdir()
        for i, picture in enumerate(pictures):
            picture.save(tmp_path / split / f"{i}.jpg", quality=80)
    return {split: find_images(tmp_path / split) for split in content}


def test_validation_images_that_leak_are_left_out_and_all_pairs_listed(
    originals: list[Image.Image], tmp_path: Path
) -> None:
    images = lists(tmp_path, originals)
    found = find_leaks(images, {split: small_pictures(one) for split, one in images.items()}, None, 0.9)
    assert [row[:5] for row in found.rows] == [
        ("unlabelled", "7.jpg", "train", "6.jpg", "hash"),
        ("unlabelled", "4.jpg", "val", "1.jpg", "hash"),
        ("train", "5.jpg", "val", "2.jpg", "hash"),
    ]
    assert found.excluded == (1, 2)
    assert "2 of 10 validation images are near-copies and were left out" in found.remarks
    features = {split: np.eye(10, 30) for split in images} | {"train": np.eye(10, 30, 10), "val": np.eye(10, 30, 20)}
    features["val"][8] = features["train"][0]
    with_features = find_leaks(images, {split: small_pictures(one) for split, one in images.items()}, features, 0.9)
    assert with_features.excluded == (1, 2, 8)
    assert ("train", "0.jpg", "val", "8.jpg", "features", 1.0) in with_features.rows


def test_the_look_is_kept_until_images_change(
    originals: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists(tmp_path, originals)
    train, val = (labelled_images(tmp_path / f"set_{split}", 4, seed=i) for i, split in enumerate(("train", "val")))
    out = tmp_path / "out"
    out.mkdir()
    said: list[str] = []
    data = Split(train, val)
    first, seconds = look_for_leaks(out, data, [start("random")], tmp_path / "val", "cpu", said.append)
    assert (out / "leakage.csv").read_text().splitlines()[0] == "split,image,near_split,near_image,test,measure,unit"
    assert first.looked_at == {"unlabelled": 10, "train": 4, "val": 4}
    monkeypatch.setattr("regionssl.proof.looking.small_pictures", None)  # a second look would fail
    assert look_for_leaks(out, data, [start("random")], tmp_path / "val", "cpu", said.append) == (
        first,
        pytest.approx(seconds, abs=0.01),
    )
    with pytest.raises(TypeError):
        look_for_leaks(out, data, [start("random")], tmp_path / "train", "cpu", said.append)
    assert len(said) == 2


def test_no_validation_image_left_is_a_sentence(tmp_path: Path) -> None:
    same = labelled_images(tmp_path / "images", 5)
    pictures = small_pictures(same.images)
    found = find_leaks({"train": same.images, "val": same.images}, {"train": pictures, "val": pictures}, None, 0.9)
    with pytest.raises(InputError, match="all 5 validation images are near-copies"):
        without_leaks(Split(same, same), found)
    assert len(without_leaks(Split(same, same), type(found)((), (0, 3), {}, ())).val) == 3


def test_the_images_of_a_run_are_those_that_it_names(tmp_path: Path) -> None:
    labelled = labelled_images(tmp_path / "images", 3)
    run = tmp_path / "run"
    run.mkdir()
    facts = '{"data": {"source": "%s", "image_root": null, "fingerprint": "%s"}}'
    (run / "run.json").write_text(facts % (tmp_path / "images", labelled.images.fingerprint))
    found = images_of_run(start("run", str(run)))
    assert isinstance(found, ImageList)
    assert found.fingerprint == labelled.images.fingerprint
    (run / "run.json").write_text(facts % (tmp_path / "images", "0123456789abcdef"))
    assert "gone or have changed" in str(images_of_run(start("run", str(run))))
    assert images_of_run(start("random")) is None
    assert "not at hand" in str(images_of_run(start("imagenet")))
    starts = [start("random"), start("imagenet")]
    images, remarks = images_to_compare(Split(labelled, labelled_images(tmp_path / "val", 2, seed=1)), starts, None)
    assert list(images) == ["train", "val"]
    assert list(images_to_compare(Split(labelled, labelled), starts, None)[0]) == ["val"], "nothing is trained"
    assert len(remarks) == 1


def test_features_of_a_start_are_one_row_an_image(tmp_path: Path) -> None:
    labelled = labelled_images(tmp_path / "images", 3)
    (tmp_path / "images" / "001.png").write_bytes(b"broken")
    found = pooled_features(start("random"), labelled.images, "cpu")
    assert found.shape == (3, 512)
    assert np.isfinite(found).all(1).tolist() == [True, False, True]
