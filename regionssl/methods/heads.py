"""Projectors and predictors."""

from __future__ import annotations

from torch import nn


def mlp(inputs: int, hidden: int, outputs: int, *, norm: bool, bias: bool = True) -> nn.Sequential:
    """Linear - [BatchNorm] - ReLU - Linear on rows (R, inputs) -> (R, outputs).

    Args:
        norm: batch normalisation after the first layer (BYOL family); the MoCo family has none.
        bias: of the last layer.
    """
    middle = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(
        nn.Linear(inputs, hidden), *middle, nn.ReLU(inplace=True), nn.Linear(hidden, outputs, bias=bias)
    )


def kaiming_fan_in(head: nn.Sequential) -> nn.Sequential:
    """Draw the weights of the linear layers from N(0, 2 / fan_in) and set their biases to 0 (ORL, section 2.2)."""
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return head
