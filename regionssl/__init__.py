"""Region- and object-level self-supervised pre-training of detection backbones."""

from regionssl.errors import InputError
from regionssl.export.run_weights import load_backbone
from regionssl.verbs.demo import demo
from regionssl.verbs.doctor import diagnose
from regionssl.verbs.evaluate import evaluate
from regionssl.verbs.export import export
from regionssl.verbs.pack import pack
from regionssl.verbs.pretrain import pretrain
from regionssl.verbs.prove import prove
from regionssl.verbs.recipes import recipes
from regionssl.verbs.regions import find_regions
from regionssl.verbs.report import make_report
from regionssl.verbs.show import show

__all__ = [
    "InputError",
    "demo",
    "diagnose",
    "evaluate",
    "export",
    "find_regions",
    "load_backbone",
    "make_report",
    "pack",
    "pretrain",
    "prove",
    "recipes",
    "show",
]
