"""Files of weights, read without running code: safetensors, torch files, and pickles of arrays."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors.torch import load_file
from torch import Tensor

from regionssl.errors import InputError

_NESTING = 3


class _Array(np.ndarray):
    """An array that takes its values from the file, so that it cannot be larger than the file."""

    def __new__(cls, shape: Any, dtype: Any, buffer: bytes) -> _Array:
        return super().__new__(cls, shape, dtype, buffer)


def _bytes(values: bytes) -> bytearray:
    if not isinstance(values, bytes):
        raise pickle.UnpicklingError("it holds a bytearray that is not made of bytes")
    return bytearray(values)


# What arrays are pickled with; none of it runs what a file says. Converters for detectron2 write arrays for tensors.
_ARRAY_PARTS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): _Array,
    ("builtins", "bytearray"): _bytes,
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy.core.multiarray", "scalar"): multiarray.scalar,
    ("numpy._core.multiarray", "scalar"): multiarray.scalar,
    ("numpy._core.numeric", "_frombuffer"): lambda buffer, dtype, shape, order: np.frombuffer(buffer, dtype).reshape(
        shape, order=order
    ),
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}
_DTYPES = [type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")]


class _ArrayUnpickler(pickle._Unpickler):
    """Reads containers, numbers, strings and numpy arrays, and refuses everything else.

    Written in Python, as the one in C makes room for as many remembered objects as a few bytes of a file ask for.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return _ARRAY_PARTS[module, name]


def read_weights(path: Path) -> Any:
    """Whatever a weights file holds, on the CPU.

    Raises:
        InputError: it is broken, or a pickle that would run code.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        with path.open("rb") as file:
            plain = file.read(1) == b"\x80" and not _is_torch_file(path)
        return _read_arrays(path) if plain else _read_torch(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it is broken, or needs code to run when it is opened; save the state dict alone, as "
            f".safetensors or by torch.save(model.state_dict(), ...) ({first_line(error)})"
        ) from error
    except Exception as error:  # torch, pickle and safetensors raise many kinds for broken files
        raise InputError(f"{path} cannot be read as weights: {first_line(error)}") from error


def _is_torch_file(path: Path) -> bool:
    """Whether a pickle is one of torch before its zip format, which starts with a number of its own."""
    with path.open("rb") as file:
        try:
            return bool(_ArrayUnpickler(file).load() == torch.serialization.MAGIC_NUMBER)
        except Exception:
            return False


def _read_arrays(path: Path) -> Any:
    with path.open("rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()


def _read_torch(path: Path) -> Any:
    rebuild, scalar = multiarray._reconstruct, multiarray.scalar
    renamed = [(rebuild, "numpy.core.multiarray._reconstruct"), (scalar, "numpy.core.multiarray.scalar")]
    with torch.serialization.safe_globals([rebuild, scalar, *renamed, np.ndarray, np.dtype, *_DTYPES]):
        return torch.load(path, map_location="cpu", weights_only=True)


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def state_dicts(content: Any, depth: int = _NESTING) -> Iterator[dict[str, Tensor]]:
    """Every mapping from names to tensors, or to arrays, within ``content``."""
    if not isinstance(content, Mapping) or depth == 0:
        return
    found = {key: _tensor(value) for key, value in content.items() if isinstance(key, str)}
    tensors = {key: value for key, value in found.items() if value is not None}
    if tensors:
        yield tensors
    for value in content.values():
        yield from state_dicts(value, depth - 1)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.array(value))
    return value if isinstance(value, Tensor) else None
