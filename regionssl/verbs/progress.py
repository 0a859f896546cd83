"""How long work over images still takes: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from regionssl.engine.log import duration

_SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """Counts images. The time left is judged by those that were made, not by those that were found done.

    Args:
        name: of the work.
        images: how many in all.
    """

    def __init__(self, console: Console, name: str, images: int) -> None:
        self.console, self.name, self.images = console, name, images
        self.done = self.made = 0
        self.began = self.said = time.perf_counter()
        self.bar = Progress(
            TextColumn(name), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[left]}"), console=console
        )
        self.live = console.is_terminal and not console.quiet

    def __enter__(self) -> Self:
        if self.live:
            self.bar.add_task(self.name, total=self.images, left="")
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.bar.stop()

    def add(self, images: int, made: int) -> None:
        """Count ``images`` more that are done, ``made`` of them now."""
        self.done, self.made = self.done + images, self.made + made
        now = time.perf_counter()
        if self.live:
            self.bar.update(self.bar.task_ids[0], completed=self.done, left=self._left(now))
        elif self.made and now - self.said > _SECONDS_BETWEEN_LINES:
            self.said = now
            self.console.print(
                f"{self.name}: {self.done:,}/{self.images:,}  {self._left(now)}", highlight=False, soft_wrap=True
            )

    def summary(self) -> str:
        """One line about the work done."""
        seconds = time.perf_counter() - self.began
        if not self.made:
            return f"{self.name}: found done ({self.images:,} images)"
        found = f"; {self.done - self.made:,} found done" if self.done > self.made else ""
        pace = f"{1000 * seconds / self.made:,.1f} ms each"
        return f"{self.name}: {self.made:,} images in {duration(seconds)}, {pace}{found}"

    def _left(self, now: float) -> str:
        if not self.made:
            return ""
        each = (now - self.began) / self.made
        pace = f"{1 / max(each, 1e-9):,.1f} img/s" if each < 1 else f"{each:.1f} s/img"
        return f"{pace}  left {duration((self.images - self.done) * each)}"
