"""One command at a time on a folder: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from regionssl.engine.distributed import process_rank
from regionssl.errors import InputError

LOCK = ".lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def claimed(folder: Path, wanted: bool = True) -> Iterator[None]:
    """Hold a folder that exists against other commands, until left; the first process of several holds it for all.

    The lock is the process's own: loader processes do not inherit it, and it ends with the process. Where the file
    system knows no locks, the file itself is one, and that of a process which has ended counts for nothing.

    Args:
        wanted: False holds nothing, for commands that write nothing.

    Raises:
        InputError: another process holds the folder, or it cannot be written.
    """
    if not wanted or process_rank() != 0:
        yield
        return
    path = folder / LOCK
    with _taken(path) as file:
        file.truncate(0)
        file.seek(0)
        json.dump(_own(), file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _taken(path: Path) -> TextIO:
    """The lock file, opened and locked; another's that is removed meanwhile does not count."""
    while True:
        try:
            file = path.open("a+")
        except OSError as error:
            raise InputError(f"cannot write in {path.parent}: {error.strerror}; choose another --out") from error
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _holder(file)
            file.close()
            if error.errno not in _UNSUPPORTED or _may_run(holder):
                raise InputError(_refusal(path, holder)) from None
            path.unlink(missing_ok=True)
            return path.open("a+")
        if _is_at(file, path):
            return file
        file.close()


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _own() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid(), "command": " ".join(sys.argv)}


def _holder(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        content = json.load(file)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _may_run(holder: dict[str, Any]) -> bool:
    """Whether the process that wrote a lock may still run; one of another host may."""
    if not holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(holder["process"]), 0)
    except (ProcessLookupError, KeyError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _refusal(path: Path, holder: dict[str, Any]) -> str:
    if not holder:
        return f"another process is writing in {path.parent}; wait until it has ended, or choose another --out"
    host = holder.get("host")
    elsewhere = "" if host == socket.gethostname() else f"; if that one has ended, remove {path}"
    return (
        f"process {holder.get('process')} on {host} is writing in {path.parent} ({holder.get('command')}); wait until "
        f"it has ended, or choose another --out{elsewhere}"
    )
