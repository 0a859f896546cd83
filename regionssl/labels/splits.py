"""Stratified parts of a labelled set: nested label fractions, and a validation split where there is none.

All parts are beginnings of one order of the images, :func:`stratified_order`, and so nested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from regionssl.counted import Stream, permutation
from regionssl.errors import InputError
from regionssl.labels.sets import LabelledSet

_CANDIDATES = 16


def stratified_order(counts: np.ndarray, names: Sequence[str], seed: int, length: int | None = None) -> np.ndarray:
    """Positions of images, each beginning of which has nearly the class shares of the whole.

    Greedy. Take the class of which the smallest share (of its objects, pixels or images) has been taken so far; images
    without any class count as a class of their own, the last at equal share. Of the next 16 images that have it, append
    the one after which the shares taken of all classes are closest to the share of images taken: least sum of squared
    differences, each weighted by the number of images with the class. "Next", and which class of several at equal
    share, go by permutations of the sorted names and of the classes that are drawn from the seed, so the order of the
    files does not matter.

    Args:
        counts: (N, C) how often each class occurs in each image.
        names: N unique names.
        length: how many positions are needed; None for all.

    Returns:
        (length,) int64.
    """
    total = len(names)
    by_name = np.array(sorted(range(total), key=lambda i: names[i]), np.int64)
    drawn = by_name[permutation(total, seed, Stream.SPLITS)]
    counts = np.asarray(counts, np.float64)
    shares = _shares(counts[drawn])
    queues = [iter(np.flatnonzero(column).tolist()) for column in shares.T]
    waiting: list[list[int]] = [[] for _ in queues]
    rank = permutation(len(queues), seed, Stream.SPLITS, 1)
    if (counts.sum(1) == 0).any():
        rank[-1] = len(queues)
    images = np.count_nonzero(shares, axis=0)
    left, got = images.copy(), np.zeros(len(queues))
    taken = np.zeros(total, bool)
    order: list[int] = []
    while len(order) < (total if length is None else length):
        kind = int(np.lexsort((rank, np.where(left > 0, got, np.inf)))[0])
        candidates = waiting[kind] = _candidates(waiting[kind], queues[kind], taken)
        off = np.square(got + shares[candidates] - (len(order) + 1) / total) * images
        chosen = candidates[int(off.sum(1).round(9).argmin())]  # rounded, so that machines agree on ties
        taken[chosen] = True
        got += shares[chosen]
        left -= shares[chosen] > 0
        order.append(chosen)
    return drawn[np.array(order, np.int64)]


def _shares(counts: np.ndarray) -> np.ndarray:
    """(N, K): of all that each class has, how much lies in each image; the last class is that of empty images."""
    counts = np.concatenate([counts, (counts.sum(1) == 0)[:, None]], 1)
    counts = counts[:, counts.sum(0) > 0]
    shares: np.ndarray = counts / counts.sum(0)
    return shares


def _candidates(waiting: list[int], queue: Iterator[int], taken: np.ndarray) -> list[int]:
    """Those waiting that are not taken, filled up from the queue."""
    free = [i for i in waiting if not taken[i]]
    return free + list(islice((i for i in queue if not taken[i]), _CANDIDATES - len(free)))


def nested_fractions(labelled: LabelledSet, fractions: Sequence[float], seed: int) -> dict[float, np.ndarray]:
    """Positions of the images of each label fraction, ascending; a smaller fraction is a part of every larger one.

    A fraction f of N images has max(1, round(f N)) of them, stratified as :func:`stratified_order` says. A pure
    function of names, labels, fractions and seed.

    Raises:
        InputError: a fraction outside (0, 1], or no images.
    """
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong:
        raise InputError(f"fractions of the labels lie above 0 and are at most 1, got {wrong[0]}")
    if not len(labelled):
        raise InputError("there are no labelled images to take a fraction of")
    sizes = {fraction: max(1, round(fraction * len(labelled))) for fraction in fractions}
    partial = [size for size in sizes.values() if size < len(labelled)]
    everything = np.arange(len(labelled))
    order = everything
    if partial:  # counting the classes of maps reads them all
        order = stratified_order(labelled.class_counts(), list(labelled.images.names), seed, max(partial))
    return {fraction: np.sort(order[:size]) if size < len(labelled) else everything for fraction, size in sizes.items()}


def train_val(labelled: LabelledSet, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and to score on, ascending; the latter are round(share N), and at least one of each.

    The former are a beginning of :func:`stratified_order`, so that a class which few images have is trained on. A pure
    function of names, labels, share and seed.

    Raises:
        InputError: a share outside (0, 1), or fewer than two images.
    """
    if not 0 < share < 1:
        raise InputError(f"the share of validation images lies between 0 and 1, got {share}")
    if len(labelled) < 2:
        raise InputError(f"a validation split needs at least two labelled images, got {len(labelled)}")
    order = stratified_order(labelled.class_counts(), list(labelled.images.names), seed)
    count = len(order) - min(max(1, round(share * len(order))), len(order) - 1)
    return np.sort(order[:count]), np.sort(order[count:])
