"""What identifies labelled images."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from regionssl.labels.sets import ClassSet, MapSet, ObjectSet

Labelled = ObjectSet | MapSet | ClassSet


def labels_digest(labelled: Labelled) -> str:
    """What changes when images or labels do: names and sizes of files, and all that is in memory."""
    digest = hashlib.sha256(labelled.images.fingerprint.encode())
    digest.update("\0".join([*labelled.images.names, *labelled.classes]).encode())
    if isinstance(labelled, MapSet):
        digest.update(labelled.maps.fingerprint.encode() + labelled.values.tobytes())
    elif isinstance(labelled, ClassSet):
        digest.update(labelled.truth.tobytes())
    else:
        for one in labelled.objects:
            for array in (one.boxes, one.labels, one.crowd, one.area, one.keypoints):
                digest.update(b"-" if array is None else array.tobytes())
            digest.update(json.dumps([one.masks, one.dense], default=_plain).encode())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Bytes of run lengths and NumPy values, for JSON."""
    return value.decode("latin-1") if isinstance(value, bytes) else np.asarray(value).tolist()
