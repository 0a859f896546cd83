"""What was counted, fixed or dropped while labels were read, as sentences; and how much of it is too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from regionssl.data.scan_report import listed, printable
from regionssl.errors import InputError

MOST_BAD = 0.05  # share of the images that labels name


class Findings:
    """Counts of what was found, in the order of first appearance, with the first example of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._said: list[str] = []

    def say(self, sentence: str) -> None:
        """Add a sentence that counts nothing."""
        self._said.append(sentence)

    def count(self, what: str, example: object, number: int = 1) -> None:
        """Count ``number`` times ``what``, a phrase in the plural."""
        self._counts[what] += number
        self._examples.setdefault(what, printable(str(example)))

    def sentences(self) -> tuple[str, ...]:
        counted = [f"{what}: {number:,}, such as {self._examples[what]}" for what, number in self._counts.items()]
        return (*self._said, *counted)

    def drop_images(self, where: object, bad: Sequence[tuple[str, str]], named: int) -> None:
        """Count images that cannot be used.

        Args:
            bad: names and reasons.
            named: number of images that the labels name.

        Raises:
            InputError: they are more than 5 % of those named, or all.
        """
        if not bad:
            return
        if len(bad) == named or len(bad) > MOST_BAD * named:
            shown = "\n".join(listed(tuple((printable(name), reason) for name, reason in bad), "  "))
            raise InputError(
                f"{len(bad)} of the {named} images that {where} has labels for cannot be used, and at most "
                f"{MOST_BAD:.0%} may be left out; put them in place or take out their labels:\n{shown}"
            )
        self.count("labelled images that cannot be used were left out", f"{bad[0][0]}, which {bad[0][1]}", len(bad))
