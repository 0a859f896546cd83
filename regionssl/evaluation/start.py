"""What an evaluation starts from: a run, a file of weights, ImageNet's, or nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from regionssl.backbones.beside import pyramid_tensors
from regionssl.backbones.encoder import Encoder, EncoderConfig
from regionssl.backbones.weights import initialise
from regionssl.errors import InputError
from regionssl.export.run_weights import CARD, part, read_card, read_tensors


@dataclass(frozen=True)
class Start:
    """A backbone to be evaluated; every :meth:`encoder` is a fresh copy.

    Attributes:
        name: in tables.
        source: "random", "imagenet", a run folder or a file of weights.
        config: the backbone's architecture.
        size: side of the views that it was pre-trained on, pixels.
        mean, std: what its inputs were normalised by, RGB, of values in 0..1.
    """

    name: str
    source: str
    config: EncoderConfig
    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def pretrained(self) -> bool:
        return self.source != "random"

    def encoder(self, maps: tuple[str, ...] = ("c2", "c3", "c4", "c5"), seed: int = 0) -> Encoder:
        """A backbone with these weights, whose parameters all train; random ones are drawn from ``seed``.

        Raises:
            InputError: the weights cannot be read or do not fit, or the backbone lacks one of the maps.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = Encoder(self.config, size=max(self.size, 64), maps=maps)
        initialise(encoder, self.source)
        return encoder

    def fpn(self) -> dict[str, Tensor]:
        """Tensors of the pyramid that was trained too, by their names in :class:`backbones.fpn.FPN`; or none."""
        source = Path(self.source)
        if (source / CARD).is_file():
            return part(read_tensors(source), "fpn")
        return pyramid_tensors(source, self.encoder()) if source.is_file() else {}


def open_start(source: str, backbone: str | None = None, name: str | None = None) -> Start:
    """Find out what ``source`` is.

    Args:
        source: "random", "imagenet", a run folder, or a file of weights.
        backbone: timm name; needed where the source does not say it.

    Raises:
        InputError: nothing there, the architecture is not known, or it contradicts ``backbone``.
    """
    run = Path(source)
    if (run / CARD).is_file() or (run / "config.yaml").is_file():
        card = read_card(run)
        config = EncoderConfig.model_validate(card["backbone"])
        if backbone is not None and EncoderConfig(name=backbone).name != config.name:
            raise InputError(f"{source} holds a {config.name}, and --backbone says {backbone}; leave --backbone out")
        return Start(name or run.name, source, config, card["size"], tuple(card["mean"]), tuple(card["std"]))
    if source not in ("random", "imagenet") and not run.is_file():
        raise InputError(f"there is no run folder or file of weights {source}; give one, or random or imagenet")
    if backbone is None:
        raise InputError(f"{source} does not say which backbone it is for; add --backbone, such as --backbone resnet50")
    return Start(name or (source if not run.is_file() else run.stem), source, EncoderConfig(name=backbone))


def weights_digest(start: Start) -> str:
    """What changes when a start's weights do."""
    path = Path(start.source)
    if (path / CARD).is_file():
        return f"run {read_card(path)['sha256']}"
    if path.is_file():
        return f"file {hashlib.sha256(path.read_bytes()).hexdigest()}"
    return f"{start.source} {start.config.model_dump_json()} timm {version('timm')}"


def take_statistics(network: nn.Module, inputs: Tensor) -> None:
    """Give batch norms, which have seen nothing yet, the statistics of the inputs; leave all in evaluation mode."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # a plain mean over what was seen
        norm.train()
    if norms:
        with torch.no_grad():
            network(inputs)
    network.eval()
