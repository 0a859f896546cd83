"""The figure of views, checked pixel by pixel: every rectangle is where geometry says."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from regionssl.geometry import Crops, iou, to_view
from regionssl.report.drawing import GREEN, PAPER, shorten, text_width
from regionssl.report.views import REGION_COLOURS, UNMATCHED, VIEW_COLOURS, spread, views_figure

LIT, DIM = (150, 100, 50), (60, 40, 20)
GROUND = [(9, 0, 0), (0, 9, 0), (0, 0, 9)]
MARK = (250, 0, 250)


@dataclass
class Matched:
    views: tuple[int, int]
    first: Tensor
    second: Tensor
    valid: Tensor


def crops(box: list[float], flip: bool, size: int) -> Crops:
    return Crops(torch.tensor([box], dtype=torch.float64), torch.tensor([flip]), size)


def plain_view(number: int, size: int) -> Tensor:
    return torch.tensor(GROUND[number], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, size, size).clone()


def nothing(views: tuple[int, int] = (0, 1)) -> Matched:
    return Matched(views, torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.bool))


def figure(view_crops: list[Crops], matches: Matched, image_size: tuple[int, int] = (448, 448)) -> np.ndarray:
    views = [plain_view(number, crop.size) for number, crop in enumerate(view_crops)]
    return np.asarray(views_figure([Image.new("RGB", image_size, LIT)], view_crops, views, matches, ["a.png"], "title"))


def box_of(picture: np.ndarray, *colours: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The smallest box around all pixels of the colours."""
    return extent(np.any([(picture == colour).all(-1) for colour in colours], 0))


def extent(found: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = found.any(1).nonzero()[0], found.any(0).nonzero()[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def panel(picture: np.ndarray, number: int) -> np.ndarray:
    x0, y0, x1, y1 = box_of(picture, GROUND[number])
    return picture[y0:y1, x0:x1]


TWO = [crops([100, 50, 300, 250], False, 56), crops([200, 150, 400, 350], True, 112)]


def test_crops_are_drawn_at_their_place_in_their_colours() -> None:
    picture = figure(TWO, nothing())
    x0, y0, x1, y1 = box_of(picture, LIT, DIM)
    assert (x1 - x0, y1 - y0) == (448, 448)
    source = picture[y0:y1, x0:x1]
    for colour, (left, top, right, bottom), middle in (
        (VIEW_COLOURS[0], (100, 50, 300, 250), 120),
        (VIEW_COLOURS[1], (200, 150, 400, 350), 330),
    ):
        for x, y in ((left, middle), (right - 1, middle)):
            assert tuple(source[y, x]) == colour or tuple(source[y, x]) == PAPER
        assert box_of(source, colour) == (left, top, right, bottom)
    assert tuple(source[400, 50]) == DIM
    assert tuple(source[120, 120]) == LIT
    assert tuple(source[300, 380]) == LIT


def test_the_corner_shows_what_is_mirrored() -> None:
    picture = figure(TWO, nothing())
    x0, y0, *_ = box_of(picture, LIT, DIM)
    source = picture[y0:, x0:]
    assert tuple(source[58, 110]) == VIEW_COLOURS[0]
    assert tuple(source[58, 289]) == LIT
    assert tuple(source[158, 389]) == VIEW_COLOURS[1]
    assert tuple(source[158, 210]) == LIT
    for number in (0, 1):
        assert tuple(panel(picture, number)[8, 8]) == VIEW_COLOURS[number]
        assert tuple(panel(picture, number)[8, -9]) == GROUND[number]


def test_the_overlap_is_dashed_and_absent_without_one() -> None:
    picture = figure(TWO, nothing())
    x0, y0, *_ = box_of(picture, LIT, DIM)
    source = picture[y0 : y0 + 448, x0 : x0 + 448]
    assert box_of(source, PAPER) == (200, 150, 300, 250)
    top_edge = (source[150, 200:300] == PAPER).all(-1).mean()
    assert 0.4 < top_edge < 0.6
    apart = [TWO[0], crops([300, 250, 400, 350], False, 56)]
    picture = figure(apart, nothing())
    x0, y0, *_ = box_of(picture, LIT, DIM)
    assert not (picture[y0 : y0 + 448, x0 : x0 + 448] == PAPER).all(-1).any()


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_matched_regions_enclose_the_same_place(flips: tuple[bool, bool]) -> None:
    """A painted rectangle of the image is enclosed by its box in the image and in both views, mirrored or not."""
    place = (212, 160, 260, 240)
    image = Image.new("RGB", (448, 448), LIT)
    image.paste(MARK, place)
    cuts = [crops([100, 50, 300, 250], flips[0], 100), crops([200, 150, 350, 300], flips[1], 150)]
    views = []
    for crop in cuts:
        pixels = np.asarray(image.crop(crop.box[0].int().tolist()).resize((crop.size, crop.size), 0))
        pixels = pixels[:, ::-1] if crop.flip[0] else pixels
        views.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None])
    boxes = torch.tensor([[place]], dtype=torch.float64)
    matches = Matched((0, 1), to_view(boxes, cuts[0]), to_view(boxes, cuts[1]), torch.ones(1, 1, dtype=torch.bool))
    bare = np.asarray(views_figure([image], cuts, views, nothing(), ["a.png"]))
    drawn = np.asarray(views_figure([image], cuts, views, matches, ["a.png"]))
    for column in range(3):
        left = 28 + column * (448 + 28)
        blue, green = bare[-448 - 28 : -28, left : left + 448, 2], bare[-448 - 28 : -28, left : left + 448, 1]
        painted = extent((blue > 150) & (green < 50))
        outlined = box_of(drawn[-448 - 28 : -28, left : left + 448], REGION_COLOURS[0])
        assert painted == pytest.approx(outlined, abs=2), column


def test_regions_without_counterpart_are_dashed_in_the_first_view_only() -> None:
    boxes = torch.tensor([[[8.0, 16, 24, 40], [30, 30, 44, 44]]])
    matches = Matched((0, 1), boxes, boxes, torch.tensor([[False, True]]))
    picture = figure(TWO, matches)
    first, second = panel(picture, 0), panel(picture, 1)
    assert first.shape == second.shape == (448, 448, 3)
    assert box_of(first, UNMATCHED) == (64, 128, 192, 320)
    assert 0.4 < (first[128, 64:192] == UNMATCHED).all(-1).mean() < 0.6
    assert not (second == UNMATCHED).all(-1).any()
    assert box_of(first, REGION_COLOURS[0]) == (240, 240, 352, 352)
    assert box_of(second, REGION_COLOURS[0]) == (120, 120, 176, 176)


def test_any_number_of_views_of_any_size() -> None:
    three = [*TWO, crops([0, 0, 448, 448], False, 64)]
    boxes = torch.tensor([[[8.0, 16, 24, 40]]])
    matches = Matched((2, 1), boxes, boxes, torch.tensor([[True]]))
    picture = figure(three, matches)
    assert box_of(panel(picture, 2), REGION_COLOURS[0]) == (56, 112, 168, 280)
    assert box_of(panel(picture, 1), REGION_COLOURS[0]) == (32, 64, 96, 160)
    assert not (panel(picture, 0) == REGION_COLOURS[0]).all(-1).any()
    top = box_of(picture, GROUND[0])[1]
    assert box_of(picture[top : top + 448, 28 : 28 + 448], GREEN) == (0, 0, 448, 448)
    assert picture.shape[1] - figure(TWO, nothing()).shape[1] == 448 + 28


def test_rows_fit_images_of_all_shapes_and_boxes_that_leave_the_view() -> None:
    images = [Image.new("L", (40, 400)), Image.new("RGB", (2000, 100)), Image.new("RGB", (3, 2))]
    sizes = [[0.0, 0, image.width, image.height] for image in images]
    whole = Crops(torch.tensor(sizes, dtype=torch.float64), torch.tensor([False, True, False]), 32)
    views = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    boxes = torch.tensor([[-9.0, -9, 60, 60], [5, 5, 5.2, 5.2], [0, 0, 32, 32]])[:, None]
    matches = Matched((0, 1), boxes, boxes, torch.ones(3, 1, dtype=torch.bool))
    names = ["a" * 300, "名前\udcff.png", ""]
    picture = views_figure(images, [whole, whole], [views, views], matches, names)
    assert picture.height > 3 * 448
    frame = np.asarray(picture)[:, : 28 + 672 + 28 + 448]
    assert not (frame[:, :24] != 255).any()


def test_text_is_cut_to_its_width() -> None:
    assert shorten("short.png", 500, 18) == "short.png"
    cut = shorten("folder/with/a/long/name/scene_0001.png", 150, 18)
    assert text_width(cut, 18) <= 150
    assert cut.startswith("fol")
    assert cut.endswith(".png")


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_spread_takes_few_valid_boxes_that_do_not_coincide(seed: int, count: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=rng) * 80
    boxes = torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=rng) * 60], 1)
    valid = torch.rand(count, generator=rng) < 0.7
    chosen = spread(boxes, valid)
    assert chosen == sorted(set(chosen)) == spread(boxes, valid)
    assert len(chosen) <= 7
    assert valid[chosen].all()
    overlaps = iou(boxes[:, None], boxes[None, chosen])
    assert (overlaps[chosen] > 0.3).sum() == len(chosen)
    if len(chosen) < 7:
        assert (overlaps[valid] > 0.3).any(1).all()
    if valid.any():
        assert int(valid.nonzero()[0]) in chosen
