"""Trainings one after another, or side by side in processes that each take the next free one."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from regionssl.engine.lost import lost_loader
from regionssl.errors import InputError, TooFewLabels
from regionssl.proof.plan import Training
from regionssl.proof.store import Result, Store

Report = Callable[[Training, Result, bool], None]
"""Told of every training once: what it was, what it left, and whether it was found done."""


def run_all(
    store: Store, trainings: Sequence[Training], device: str, processes: int, report: Report
) -> list[Result | TooFewLabels]:
    """The results of all trainings, in their order; those that are done are read.

    In the place of one whose labels do not suffice stands what it lacks.

    Args:
        device: "cpu" or "cuda"; process ``i`` takes ``cuda:i``.
        processes: how many at a time; on a CPU they share its cores.

    Raises:
        InputError: a training failed; those that are done stay.
    """
    waiting, lacking = list[Training](), dict[str, TooFewLabels]()
    for training in trainings:
        found = store.find(training)
        if found is None:
            waiting.append(training)
        else:
            report(training, found, True)
    if processes == 1 or len(waiting) < 2:
        for training in waiting:
            with store.claim(training) as mine:
                if not mine:
                    raise InputError(f"another process is at work in {store.folder}; wait for it to end")
                try:
                    report(training, store.find(training) or _run(store, training, device), False)
                except TooFewLabels as error:
                    lacking[training.key] = error
    else:
        lacking = _side_by_side(store, waiting, device, processes, report)
    return [lacking.get(training.key) or _finished(store, training) for training in trainings]


def _run(store: Store, training: Training, device: str) -> Result:
    try:
        return store.run(training, device)
    except InputError as error:
        raise type(error)(f"{training.name}: {error}") from error
    except RuntimeError as error:
        if (said := lost_loader(error)) is None:
            raise
        raise InputError(f"{training.name}: {said}; run the same command again to go on") from error


def _finished(store: Store, training: Training) -> Result:
    found = store.find(training)
    if found is None:
        raise InputError(f"{training.name} did not finish; run the same command again to go on")
    return found


def _side_by_side(
    store: Store, waiting: Sequence[Training], device: str, processes: int, report: Report
) -> dict[str, TooFewLabels]:
    """Train by several processes; returns by key what labels lack."""
    context = multiprocessing.get_context("spawn")
    messages: SimpleQueue[Any] = context.SimpleQueue()
    count = min(processes, len(waiting))
    threads = max(1, torch.get_num_threads() // count) if device == "cpu" else torch.get_num_threads()
    workers = [
        context.Process(
            target=_work,
            args=(store, list(waiting), f"{device}:{i}" if device == "cuda" else device, threads, messages),
        )
        for i in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        problems, lacking = _listen(store, waiting, workers, messages, report)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()
    if problems:
        raise InputError(problems[0])
    return lacking


def _listen(
    store: Store, waiting: Sequence[Training], workers: Sequence[Any], messages: Any, report: Report
) -> tuple[list[str], dict[str, TooFewLabels]]:
    """Pass on what the processes say until the last has ended; sentences on what went wrong, and what labels lack."""
    problems, lacking = list[str](), dict[str, TooFewLabels]()
    ended = 0
    while ended < len(workers):
        while messages.empty():
            if not any(worker.is_alive() for worker in workers) and messages.empty():
                return problems, lacking
            workers[0].join(0.2)
        kind, content = messages.get()
        if kind == "done":
            report(waiting[content], _finished(store, waiting[content]), False)
        elif kind == "lacking":
            number, said = content
            lacking[waiting[number].key] = TooFewLabels(said)
        elif kind == "problem":
            problems.append(content)
        else:
            ended += 1
    return problems, lacking


def _work(store: Store, waiting: Sequence[Training], device: str, threads: int, messages: Any) -> None:
    """Take one free training after another. A process whose parent is gone stops before the next."""
    torch.set_num_threads(threads)
    parent = os.getppid()
    try:
        for number, training in enumerate(waiting):
            if os.getppid() != parent:
                sys.exit(1)
            with store.claim(training) as mine:
                if mine and store.find(training) is None:
                    try:
                        _run(store, training, device)
                    except TooFewLabels as error:
                        messages.put(("lacking", (number, str(error))))
                    else:
                        messages.put(("done", number))
    except InputError as error:
        messages.put(("problem", str(error)))
    messages.put(("ended", os.getpid()))
