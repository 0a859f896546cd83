"""Broken and hostile files from a seed: every file of a corpus is a function of (seed, its number)."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageCms

Rng = np.random.Generator
ODD_VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**70, 10**30, 1e400, -1e400, float("nan"), 0.5, 1e-300, "", "x", "\0", "auto",
    "\ud800", "../../escape", [], [[]], [None], {}, {"a": 1}, {"": []}, [1, 2, 3], ["p4"] * 50,
]  # fmt: skip


def numbered(seed: int, count: int) -> Iterator[Rng]:
    for number in range(count):
        yield np.random.default_rng([seed, number])


def pick(rng: Rng, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def damaged(rng: Rng, content: bytes) -> bytes:
    """Content cut short, with bits flipped, bytes overwritten, taken out, doubled or added."""
    broken = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(max(1, len(broken))))
        length = int(rng.integers(1, 64))
        kind = int(rng.integers(6))
        if kind == 0:
            del broken[start:]
        elif kind == 1:
            for place in rng.integers(0, max(1, len(broken)), length).tolist():
                if place < len(broken):
                    broken[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            broken[start : start + length] = rng.bytes(length)
        elif kind == 3:
            del broken[start : start + length]
        elif kind == 4:
            broken[start:start] = broken[start : start + length]
        else:
            broken += rng.bytes(length)
    return bytes(broken)


def picture(rng: Rng) -> Image.Image:
    mode = pick(rng, ["RGB", "L", "RGBA", "CMYK", "P", "1", "I;16", "F"])
    size = int(rng.integers(8, 48)), int(rng.integers(8, 48))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.uint16))
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).convert(mode)


def image_file(rng: Rng) -> tuple[str, bytes]:
    """An image file's extension and content: whole, damaged, or with a header that lies."""
    image, file = picture(rng), io.BytesIO()
    kind = pick(rng, ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
    convert = {"JPEG": "RGB", "WEBP": "RGB", "BMP": "RGB", "PNG": "RGB"}
    if kind in convert and image.mode in ("F", "CMYK", "I;16") and not (kind == "JPEG" and image.mode == "CMYK"):
        image = image.convert("L").convert(convert[kind])
    if kind == "JPEG" and image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    exif = rng.bytes(int(rng.integers(0, 200)))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    extra: dict[str, Any] = {}
    if kind in ("JPEG", "PNG", "WEBP") and rng.random() < 0.5:
        extra = {"exif": b"Exif\0\0" + exif, "icc_profile": damaged(rng, profile)}
    image.save(file, kind, **extra)
    content = file.getvalue()
    fate = int(rng.integers(8))
    if fate == 0:
        content = absurd(kind, content, rng)
    elif fate == 1:
        content = content[: int(rng.integers(len(content)))]
    elif fate < 7:
        content = damaged(rng, content)
    return pick(rng, [".png", ".jpg", ".webp", ".bmp", ".tif", ".JPEG"]), content


def absurd(kind: str, content: bytes, rng: Rng) -> bytes:
    """The file with sizes in its header that it does not have."""
    width, height = int(pick(rng, [0, 1, 65535, 2**31 - 1])), int(pick(rng, [0, 3, 65500, 2**30]))
    broken = bytearray(content)
    if kind == "PNG":
        broken[16:24] = struct.pack(">II", width, height)
        broken[29:33] = struct.pack(">I", zlib.crc32(broken[12:29]))
    elif kind == "BMP":
        broken[18:26] = struct.pack("<ii", width, -height if rng.random() < 0.5 else height)
    elif kind == "JPEG" and (place := content.find(b"\xff\xc0")) > 0:
        broken[place + 5 : place + 9] = struct.pack(">HH", height % 65536, width % 65536)
    else:
        return damaged(rng, content)
    return bytes(broken)


def bomb(side: int) -> bytes:
    """A PNG of a few kilobytes that says, and holds, side x side pixels of one bit."""
    rows = zlib.compress((b"\0" + bytes(-(-side // 8))) * side, 9)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def altered(rng: Rng, tree: Any) -> Any:
    """A tree of plain values with some changed, renamed, taken out, moved or wrapped."""
    tree = json.loads(json.dumps(tree))
    for _ in range(int(rng.integers(1, 4))):
        everywhere = list(places(tree))
        if not everywhere:
            break
        *parents, last = pick(rng, everywhere)
        node = tree
        for key in parents:
            node = node[key]
        kind = int(rng.integers(6))
        if kind == 0:
            del node[last]
        elif kind == 1 and isinstance(node, dict):
            node[str(last)[:-1] + pick(rng, ["", "x", "\0", "é"])] = node.pop(last)
        elif kind == 2:
            node[last] = [node[last]]
        elif kind == 3:
            node[last] = json.loads(json.dumps(tree))
        else:
            node[last] = pick(rng, ODD_VALUES)
    return tree


def yaml_traps(marker: Path) -> list[str]:
    levels = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    merges = "\n".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 12))
    return [
        f"a0: &a0 [x]\n{levels}\nmethod: *a11",
        f"m0: &m0 {{x: 1}}\n{merges}\nmethod: *m11",
        "a: &a [*a]",
        "method: &m {name: resim, plan: *m}",
        f"!!python/object/apply:os.system ['touch {marker}']",
        f"method: !!python/object/new:subprocess.Popen [['touch', '{marker}']]",
        "[" * 1000,
        "{a: " * 600,
        "method: !!timestamp x",
        "method: !!bool x",
        "method: !!int x",
        "method: !!binary '*'",
        "method: 2001-99-99",
        f"training: {{seed: 0x{'f' * 9000}}}",
        "? [a, b]\n: c",
        "--- a\n--- b",
        "method: {name: [a]}",
        "method: {name: resim, preset: {a: 1}}",
        "method: {name: resim, preset: [x]}",
        "%YAML 9.9\n---\na: 1",
        "\t\ta: b",
        "\x07: 1",
        "",
    ]


def recipe_file(rng: Rng, recipes: list[str], traps: list[str], number: int) -> bytes:
    if number < len(traps):
        return traps[number].encode()
    text = pick(rng, recipes)
    if rng.random() < 0.3:
        return damaged(rng, text.encode())
    return yaml.safe_dump(altered(rng, yaml.safe_load(text)), allow_unicode=True).encode("utf-8", "surrogatepass")


def annotation_file(rng: Rng, tree: dict[str, Any]) -> bytes:
    text = json.dumps(altered(rng, tree))
    kind = int(rng.integers(10))
    if kind == 0:
        return b"[" * 100_000
    if kind == 1:
        return text.replace("1", "1" * 5000).encode()
    return damaged(rng, text.encode()) if kind < 4 else text.encode()


def archive_file(rng: Rng) -> tuple[str, bytes]:
    """A zip or tar with names that lead out of it, links, members twice and headers that lie, perhaps damaged too."""
    file, kind = io.BytesIO(), pick(rng, [".zip", ".tar"])
    names = [
        "../../escape.png",
        "/escape.png",
        "a.png",
        "a.png",
        "b/c.png",
        "x\ud800.png",
        "long" * 60 + ".png",
        "n\n.png",
    ]
    members = [(pick(rng, names), image_file(rng)[1]) for _ in range(int(rng.integers(1, 6)))]
    if kind == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members:
                archive.writestr(
                    name.replace("\ud800", "é"), content, pick(rng, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
                )
    else:
        with tarfile.open(
            fileobj=file, mode="w", format=pick(rng, [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
        ) as archive:
            for name, content in members:
                info = tarfile.TarInfo(name.replace("\ud800", "\udc80"))
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = pick(rng, [tarfile.SYMTYPE, tarfile.LNKTYPE]), "/etc/passwd"
            archive.addfile(link)
    content = file.getvalue()
    fate = int(rng.integers(4))
    if fate == 0:
        return kind, lying_archive(kind, content, rng)
    return kind, content if fate == 1 else damaged(rng, content)


def lying_archive(kind: str, content: bytes, rng: Rng) -> bytes:
    """An archive whose headers give sizes, places or methods that are not so."""
    broken = bytearray(content)
    if kind == ".zip":
        place = content.rfind(b"PK\1\2")
        field = int(pick(rng, [10, 20, 24, 42]))  # method, compressed size, size, offset
        broken[place + field : place + field + (2 if field == 10 else 4)] = b"\xff" * (2 if field == 10 else 4)
        return bytes(broken)
    size = pick(rng, [b"\x80" + b"\0" * 3 + b"\x7f" * 8, b"\xff" * 12, b"77777777777\0"])
    broken[124:136] = size
    broken[148:156] = b" " * 8
    broken[148:156] = b"%06o\0 " % sum(broken[:512])
    return bytes(broken)


class Touch:
    """Pickles to a call that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.marker), "w"))


def pickle_traps(marker: Path) -> list[bytes]:
    return [
        pickle.dumps(Touch(marker)),
        pickle.dumps({"model": Touch(marker)}, protocol=4),
        b"\x80\x02N" + b"r" + struct.pack("<I", 2**31 - 2) + b".",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x04cnumpy\nndarray\n(\x8a\x08" + b"\x7f" * 8 + b"\x85\x8c\x02f4C\x00tR.",
        b"(" * 50_000,
        b"",
        b"\x80",
    ]
