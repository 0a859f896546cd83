"""Processes that a run needs and that are gone: told from torch's words, which have no exception of their own."""

from __future__ import annotations

import re

_LOADER = re.compile(r"DataLoader worker \(pid[^\n]*")
_PROCESS = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|Broken pipe|Socket closed", re.IGNORECASE)


def lost_loader(error: RuntimeError) -> str | None:
    """A sentence if a loader process was ended from outside; None for any other error."""
    match = _LOADER.search(str(error))
    if match is None:
        return None
    return (
        f"a loader process was ended from outside ({match[0].strip()}), often for want of memory or shared "
        "memory, of which `regionssl doctor` tells"
    )


def lost_process(error: RuntimeError, processes: int) -> str | None:
    """A sentence if another of several training processes is gone; None for any other error."""
    if processes == 1 or _PROCESS.search(str(error)) is None:
        return None
    return f"another of the {processes} processes of this run is gone ({str(error).splitlines()[0]})"
