"""Which of the libraries that regionssl asks for are installed, and what each optional one is for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from regionssl.doctor.finding import Finding

PURPOSES = {
    "regions": "superpixels and segments of scikit-image (R2O, kinds slic and felzenszwalb)",
    "proposals": "selective search (SCRL's and ORL's boxes)",
    "evaluation": "detection, keypoints and SVM probes",
    "onnx": "export to ONNX",
    "tensorboard": "curves in TensorBoard",
    "fast": "JPEGs decoded faster, for method.plan.resampler=torch",
}
"""What each extra of pyproject.toml is for, as far as a user needs it."""

Installed = Callable[[str], str | None]


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements() -> list[str]:
    """What the installed regionssl asks for, and what torchvision asks for beside it."""
    vision = [line for line in requires("torchvision") or [] if Requirement(line).name == "torch"]
    return [*(requires("regionssl") or []), *vision]


def check_required(lines: list[str], installed: Installed = installed_version) -> list[Finding]:
    """Whether everything that must be there is, in a version that fits.

    Args:
        lines: requirements as in package metadata; those of extras are passed over.
        installed: the version of a distribution, or None.
    """
    needed = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [f"{one} ({installed(one.name) or 'absent'})" for one in needed if not _fits(one, installed(one.name))]
    if not wrong:
        return [Finding("ok", "libraries", f"all {len({one.name for one in needed})} required ones fit")]
    names = " ".join(sorted({f'"{one.name}{one.specifier}"' for one in needed if not _fits(one, installed(one.name))}))
    return [Finding("fault", "libraries", f"missing or of another version: {', '.join(wrong)}", f"pip install {names}")]


def check_optional(lines: list[str], installed: Installed = installed_version) -> list[Finding]:
    """For each extra, whether its libraries are there, and what they are for."""
    findings = []
    for extra, purpose in PURPOSES.items():
        wanted = [one for one in map(Requirement, lines) if one.marker and one.marker.evaluate({"extra": extra})]
        absent = [one.name for one in wanted if installed(one.name) is None]
        old = [one.name for one in wanted if one.name not in absent and not _fits(one, installed(one.name))]
        mend = f'pip install "regionssl[{extra}]"'
        if old:
            found = f"{', '.join(f'{name} {installed(name)}' for name in old)} does not fit; it is for {purpose}"
            findings.append(Finding("warning", "optional", found, mend))
        elif absent:
            found = f"{', '.join(absent)} is not installed; it is for {purpose}"
            findings.append(Finding("note", "optional", found, mend))
        elif wanted:
            found = f"{', '.join(one.name for one in wanted)} for {purpose}"
            findings.append(Finding("ok", "optional", found))
    return findings


def _fits(wanted: Requirement, found: str | None) -> bool:
    return found is not None and wanted.specifier.contains(found, prereleases=True)
