"""Files of weights: what is read, and that nothing in them is run."""

import pickle
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from regionssl.backbones.weight_files import read_weights, state_dicts
from regionssl.errors import InputError

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)
NESTED = {"model": OrderedDict(a=VALUES, count=np.array(7)), "__author__": "someone", "matching_heuristics": True}


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return next(state_dicts(read_weights(path)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_arrays(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(NESTED, protocol=protocol))
    found = tensors(tmp_path / "w.pkl")
    assert found["a"].tolist() == VALUES.tolist()
    assert found["count"].shape == ()
    assert found["count"].item() == 7
    found["a"].add_(1)  # they own their memory


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_pickled_by_numpy_1_and_2(tmp_path: Path, module: bytes) -> None:
    content = re.sub(rb"numpy\._?core\.multiarray", module, pickle.dumps(NESTED, protocol=2))
    assert module in content
    (tmp_path / "w.pkl").write_bytes(content)
    assert tensors(tmp_path / "w.pkl")["a"].tolist() == VALUES.tolist()


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_with_arrays(tmp_path: Path, zipped: bool) -> None:
    """ReSim's converter writes arrays by torch.save (ReSim 7, no. 21)."""
    torch.save(NESTED, tmp_path / "w.pkl", _use_new_zipfile_serialization=zipped)
    assert tensors(tmp_path / "w.pkl")["a"].tolist() == VALUES.tolist()


class Bomb:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("where", ["w.pkl", "w.pth"])
def test_nothing_is_run(tmp_path: Path, where: str) -> None:
    touched = tmp_path / "touched"
    content = {"model": Bomb(Path.touch, touched)}
    (tmp_path / where).write_bytes(pickle.dumps(content)) if where == "w.pkl" else torch.save(content, tmp_path / where)
    with pytest.raises(InputError, match="refused: it is broken, or needs code to run"):
        read_weights(tmp_path / where)
    assert not touched.exists()


@pytest.mark.parametrize(
    "bomb",
    [Bomb(np.ndarray, (10**12,)), Bomb(bytearray, 10**12), Bomb(np.ndarray, (10**6,), "f4", b"four"), Bomb(eval, "1")],
)
def test_small_files_do_not_make_large_arrays(tmp_path: Path, bomb: Bomb) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": bomb}, protocol=4))
    with pytest.raises(InputError, match=r"w\.pkl"):
        read_weights(tmp_path / "w.pkl")


def test_arrays_of_objects_are_no_tensors(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": np.array(["text", None], object), "b": VALUES}))
    assert set(tensors(tmp_path / "w.pkl")) == {"b"}
