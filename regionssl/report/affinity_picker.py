"""The part of a page where a point is picked, and the page shows what matches it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from regionssl.report.affinity import COVER, HEAT, LEVELS, Affinity, PointViews, first_point
from regionssl.report.page import data_uri

_SCRIPT = Path(__file__).with_name("affinity_picker.js")
_SIDE = 320


def picker_script() -> str:
    """The JavaScript that makes :func:`affinity_picker` work."""
    return _SCRIPT.read_text()


def affinity_picker(images: Sequence[PointViews], networks: Mapping[str, Sequence[Affinity]], fallback: str) -> str:
    """Two views to pick points in, with choices of the image and the network.

    Args:
        networks: label -> an affinity for each image; the last is shown first.
        fallback: HTML for browsers without scripts.
    """
    content = {
        "levels": LEVELS,
        "heat": HEAT,
        "cover": COVER,
        "images": [_plain(views) for views in images],
        "networks": [[_coded(one) for one in found] for found in networks.values()],
    }
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    canvases = "".join(
        f'<figure><canvas id="affinity-view{view}" width="{_SIDE}" height="{_SIDE}" tabindex="0" role="application" '
        f'aria-label="view {view}: pick a point with the arrow keys" aria-describedby="affinity-said"></canvas>'
        f"<figcaption>view {view}</figcaption></figure>"
        for view in (1, 2)
    )
    return (
        f'<div id="affinity" hidden><div class="choices">'
        f"{_choice('affinity-network', 'features of', list(networks), len(networks) - 1)}"
        f"{_choice('affinity-image', 'image', [views.name for views in images], 0)}</div>"
        f'<div class="pair">{canvases}</div><p id="affinity-said" role="status"></p>'
        f'<script type="application/json" id="affinity-data">{text}</script></div><noscript>{fallback}</noscript>'
    )


def _choice(name: str, label: str, options: Sequence[str], chosen: int) -> str:
    entries = "".join(
        f'<option value="{number}"{" selected" if number == chosen else ""}>{escape(option)}</option>'
        for number, option in enumerate(options)
    )
    return f'<label>{label} <select id="{name}" autocomplete="off">{entries}</select></label>'


def _plain(views: PointViews) -> dict[str, object]:
    side = round(len(views.places[0]) ** 0.5)
    places = [
        [None if np.isnan(x) else [round(float(x), 3), round(float(y), 3)] for x, y in rows] for rows in views.places
    ]
    pictures = [data_uri(view.convert("RGB").resize((_SIDE, _SIDE))) for view in views.views]
    return {"name": views.name, "side": side, "first": first_point(views, side), "views": pictures, "places": places}


def _coded(found: Affinity) -> list[str]:
    """The tables within the first view, within the second, and across, as base64."""
    return [base64.b64encode(np.ascontiguousarray(table).tobytes()).decode() for table in (*found.within, found.across)]
