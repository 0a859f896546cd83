"""Images that are odd in known ways, each found, and good ones, of which nothing is said."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionssl.data.decode import Details, Header
from regionssl.data.images import ImageList, find_images
from regionssl.data.scan import examine
from regionssl.data.views import ViewPlan, ViewSpec
from regionssl.doctor.copies import alike, check_copies, equal_files, joined
from regionssl.doctor.finding import Finding, worst
from regionssl.doctor.images import check_damage, check_scan, check_speed, largest_image
from regionssl.doctor.looking import Look, Seen, chosen, look_at
from regionssl.doctor.needs import Needs, check_amount, check_sizes
from regionssl.doctor.oddities import check_oddities

PLAN = ViewPlan(views=(ViewSpec(size=32), ViewSpec(size=32)))
NEEDS = Needs(8, 1, 2, (32, 32), 4, 64, 10**6, 3)


def noise(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture of coarse colour noise, like no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def of(folder: Path) -> ImageList:
    return examine(find_images(folder))[0]


def oddities(folder: Path) -> list[Finding]:
    images = of(folder)
    return check_oddities(look_at(images, PLAN, 100), images)


def test_good_images_have_no_oddities(tmp_path: Path) -> None:
    for i in range(4):
        noise(i).save(tmp_path / f"{i}.jpg")
    assert oddities(tmp_path) == []


def save_odd(folder: Path, kind: str) -> None:
    image, path = noise(9), folder / "odd.png"
    if kind == "extension of another":
        image.save(folder / "odd.jpg", format="PNG")
    elif kind == "EXIF":
        exif = Image.Exif()
        exif[274] = 6
        image.save(folder / "odd.jpg", exif=exif)
    elif kind == "several pictures":
        image.save(folder / "odd.tif", save_all=True, append_images=[noise(10)])
    elif kind == "CMYK":
        image.convert("CMYK").save(folder / "odd.jpg")
    elif kind == "alpha":
        image.convert("RGBA").save(path)
    elif kind == "8 bits":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256).save(path)
    elif kind == "nearly black":
        image.point(lambda value: value // 30).save(path)
    else:
        Image.new("RGB", (40, 40), "white").save(path)


@pytest.mark.parametrize(
    "kind",
    ["extension of another", "EXIF", "several pictures", "CMYK", "alpha", "8 bits", "nearly black", "single colour"],
)
def test_each_oddity_is_named(tmp_path: Path, kind: str) -> None:
    for i in range(3):
        noise(i).save(tmp_path / f"{i}.jpg")
    save_odd(tmp_path, kind)
    (finding,) = oddities(tmp_path)
    assert kind in finding.found
    assert [Path(name).stem for name in finding.details] == ["odd"]
    assert finding.mend


def test_grey_and_long_images_are_told_of_when_there_are_many(tmp_path: Path) -> None:
    for i in range(3):
        noise(i, (100, 20)).convert("L").convert("RGB").save(tmp_path / f"{i}.png")
    assert [("grey" in f.found, "longer" in f.found) for f in oddities(tmp_path)] == [(True, False), (False, True)]


def test_unusable_images_warn_and_too_many_are_a_fault(tmp_path: Path) -> None:
    for i in range(40):
        noise(i).save(tmp_path / f"{i:02}.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    (finding,) = check_scan(examine(find_images(tmp_path))[1])
    assert finding.level == "warning"
    assert finding.details[0].startswith("bad.png: is not a JPEG")
    for i in range(4):
        (tmp_path / f"bad{i}.png").touch()
    assert worst(check_scan(examine(find_images(tmp_path))[1])) == "fault"


def test_damage_within_the_pixels_is_found(tmp_path: Path) -> None:
    for i in range(3):
        noise(i).save(tmp_path / f"{i}.png")
    content = bytearray((tmp_path / "1.png").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "1.png").write_bytes(content)
    images = of(tmp_path)
    looks = look_at(images, PLAN, 10)
    (finding,) = check_damage(looks, images)
    assert finding.level == "fault"
    assert finding.details[0].startswith("1.png: cannot be decoded")
    assert check_oddities(looks, images) == []
    assert alike(looks) == []


def test_copies_by_file_and_by_picture(tmp_path: Path) -> None:
    for i in range(6):
        noise(i, (64, 64)).save(tmp_path / f"{i}.png")
    (tmp_path / "3copy.png").write_bytes((tmp_path / "3.png").read_bytes())
    noise(5, (64, 64)).resize((48, 48)).save(tmp_path / "smaller.jpg", quality=80)
    noise(5, (64, 64)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "turned.png")
    images = of(tmp_path)
    looks = look_at(images, PLAN, 100)
    equal, compared = equal_files(images, [look.position for look in looks])
    names = [[images.names[i] for i in group] for group in equal]
    assert (names, compared) == ([["3.png", "3copy.png"]], 9)
    near = [[images.names[i] for i in group] for group in alike(looks)]
    assert near == [["3.png", "3copy.png"], ["5.png", "smaller.jpg", "turned.png"]]
    files, pictures = check_copies(images, equal, compared, alike(looks), len(looks))
    assert files.level == pictures.level == "warning"
    assert pictures.found.startswith("3 of 9 images")
    assert pictures.details[0] == "5.png, smaller.jpg, turned.png"


def test_few_copies_are_noted_and_none_is_fine(images: ImageList) -> None:
    found = check_copies(images, [[0, 1]], 100, [], 50)
    assert [finding.level for finding in found] == ["note", "ok"]


def test_pairs_join_into_groups() -> None:
    assert joined([(1, 2), (3, 4), (2, 3), (7, 9), (1, 4)]) == [[1, 2, 3, 4], [7, 9]]
    assert joined([]) == []


def test_a_sample_holds_neighbours_and_its_beginning_is_spread() -> None:
    assert sorted(chosen(7, 100)) == list(range(7))
    some = list(chosen(1000, 100))
    assert len(set(some)) == 100
    assert all(a + 1 == b and a % 2 == 0 for a, b in zip(some[::2], some[1::2], strict=True))
    assert 250 < sum(some[:20]) / 20 < 750


def seen(width: int, height: int, read: float = 1e-3, decoded: float = 5e-3, cut: float = 5e-3) -> Look:
    details = Details(Header("JPEG", "RGB", width, height), 1, 1)
    return Look(0, Seen(details, np.zeros((16, 17), np.uint8), True, 100.0, read, decoded, cut))


@pytest.mark.parametrize(
    ("look", "level", "word"),
    [
        (seen(640, 480), "note", "at most 182 images a second"),
        (seen(640, 480, read=0.3), "warning", "reading takes longest"),
        (seen(4000, 3000, decoded=0.08), "warning", "12.0 megapixels"),
        (seen(640, 480, decoded=0.08), "note", "decodes it in 80.0"),
    ],
)
def test_speed(look: Look, level: str, word: str) -> None:
    (finding,) = check_speed([look], 1000, 2)
    assert finding.level == level
    assert word in finding.found


def test_speed_and_size_of_nothing_is_not_judged() -> None:
    broken = [Look(0, None, "is missing")]
    assert check_speed(broken, 10, 2) == check_sizes(broken, NEEDS) == []
    assert largest_image(broken) == 0
    assert largest_image([seen(30, 20), seen(40, 10)]) == 1800


def test_images_smaller_than_the_views() -> None:
    assert worst(check_sizes([seen(40, 32)], NEEDS)) == "ok"
    looks = [seen(400, 100), seen(400, 110), seen(400, 300)]
    (finding,) = check_sizes(looks, Needs(8, 1, 2, (224, 96), 4, None, 1, 1))
    assert (finding.level, finding.mend) == ("warning", "regionssl pretrain ... --size 96")


@pytest.mark.parametrize(
    ("images", "queue", "levels", "mend"),
    [
        (118_000, 65_536, ["note"], "method.queue=29496"),
        (300_000, 65_536, ["ok"], ""),
        (118_000, None, ["ok"], ""),
        (10_000, None, ["note"], "--init imagenet"),
        (500, 65_536, ["note", "warning"], "method.queue=120"),
        (7, 64, ["fault"], "--batch-size 1"),
    ],
)
def test_amount(images: int, queue: int | None, levels: list[str], mend: str) -> None:
    findings = check_amount(images, Needs(8, 1, 2, (32, 32), 4, queue, 1, 1))
    assert [finding.level for finding in findings] == levels
    assert mend in findings[0].mend


def test_views_in_flight_are_those_of_all_loader_processes() -> None:
    needs = Needs(64, 2, 3, (100, 50), 1, None, 1, 1)
    assert needs.share == 32
    assert needs.in_flight == 2 * (3 * 4 + 1) * 32 * 3 * (100**2 + 50**2)
    assert Needs(64, 2, 0, (100, 50), 1, None, 1, 1).in_flight == 0
