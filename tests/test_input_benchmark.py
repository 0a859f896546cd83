"""The benchmark of the input path runs, and says what it compares."""

from pathlib import Path

from benchmarks.input import CLASSIC, DECODE, OURS, Options, rows


def test_rows_are_ratios_to_the_classic_pipeline(scenes: Path) -> None:
    found = {row["way"]: row for row in rows(Options(scenes, count=3, repeats=2))}
    assert found[CLASSIC]["times_classic"] == 1
    assert {OURS, DECODE, "ours from a pack: raw, short side 448"} <= found.keys()
    assert all(row["microseconds"] > 0 and row["spread"] >= 0 for row in found.values())
