"""Everything that a user installs with the package is under a licence that lets it be used and passed on freely."""

import re
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from regionssl.doctor.libraries import PURPOSES

PAGE = Path(__file__).parents[1] / "docs" / "licences.md"
FREE = r"apache|bsd|\bmit\b|\bisc\b|\bpsf|python software foundation|mpl|mozilla|hpnd|zlib|unlicense"
BESIDE_TORCH = re.compile(r"nvidia-|cuda-|triton$|setuptools$")
"""What CUDA builds of torch bring, under NVIDIA's terms, and the installer's own."""


def installed(extras: set[str]) -> dict[str, str]:
    """Name -> licence of all that regionssl with its extras requires, directly or not, as far as it is installed."""
    found: dict[str, str] = {}
    waiting = [("regionssl", frozenset({"", *extras}))]
    while waiting:
        name, wanted = waiting.pop()
        for line in requires(name) or []:
            one = Requirement(line)
            needed = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in wanted)
            own = canonicalize_name(one.name)
            if needed and own not in found and not BESIDE_TORCH.match(own):
                try:
                    found[own] = licence(own)
                except PackageNotFoundError:
                    continue
                waiting.append((own, frozenset({"", *one.extras})))
    return found


def licence(name: str) -> str:
    said = metadata(name)
    kinds = [one.rpartition("::")[2].strip() for one in said.get_all("Classifier", []) if one.startswith("License ::")]
    return said.get("License-Expression") or ", ".join(kinds) or (said.get("License") or "").partition("\n")[0]


def test_all_licences_are_free() -> None:
    found = installed(set(PURPOSES))
    assert len(found) > 30
    for name, terms in found.items():
        assert re.search(FREE, terms, re.IGNORECASE), f"{name}: {terms or 'no licence stated'}"
        assert not re.search(r"\b[AL]?GPL", terms), f"{name}: {terms}"


def test_the_page_names_all_that_is_asked_for() -> None:
    page = PAGE.read_text()
    for line in requires("regionssl") or []:
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in PURPOSES):
            assert f"`{canonicalize_name(one.name)}`" in page
