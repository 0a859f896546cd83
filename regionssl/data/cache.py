"""The folder of things that are quicker to keep than to find out again. Nothing depends on what is in it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def default_cache() -> Path:
    """``$REGIONSSL_CACHE``, or ``~/.cache/regionssl``."""
    return Path(os.environ.get("REGIONSSL_CACHE") or Path.home() / ".cache" / "regionssl")


def keep(path: Path, content: bytes) -> None:
    """Write a file of the cache in one step, so that no reader meets half of it. It need not be writable."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, written = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        try:
            with open(handle, "wb") as file:
                file.write(content)
            os.replace(written, path)
        except BaseException:
            os.unlink(written)
            raise
