"""Sees what code does outside its folder while it is at work: files opened for writing, and programs started."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_STARTS = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork", "os.forkpty", "os.spawn"}
_watch: list[tuple[tuple[str, ...], list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for allowed, seen in _watch:
        if event in _STARTS:
            seen.append(f"{event} {arguments}")
        elif event == "open" and isinstance(arguments[0], str | bytes) and _writes(arguments):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith((*allowed, os.devnull)):
                seen.append(f"{event} {path}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


sys.addaudithook(_hook)


@contextmanager
def nothing_happens_outside(*allowed: Path, mebibytes: int = 1024) -> Iterator[None]:
    """Fail if a file outside is opened for writing, a program is started, or memory grows by more."""
    seen: list[str] = []
    watch = (tuple(f"{path}{os.sep}" for path in allowed), seen)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _watch.append(watch)
    try:
        yield
    finally:
        _watch.remove(watch)
    assert seen == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < mebibytes * 1024
