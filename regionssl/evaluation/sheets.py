"""Pictures put together to sheets."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

_GAP = 4


def side_by_side(parts: Sequence[Image.Image]) -> Image.Image:
    """A row of pictures of one height."""
    row = Image.new("RGB", (sum(part.width + _GAP for part in parts) - _GAP, parts[0].height), "grey")
    x = 0
    for part in parts:
        row.paste(part, (x, 0))
        x += part.width + _GAP
    return row


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows of one width, from top to bottom."""
    sheet = Image.new("RGB", (rows[0].width, sum(row.height + _GAP for row in rows) - _GAP), "grey")
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height + _GAP
    return sheet
