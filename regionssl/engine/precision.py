"""The arithmetic of a run's networks, as Fabric's plugins."""

from __future__ import annotations

from typing import Any

from lightning_fabric.plugins import MixedPrecision, Precision


class Autocast(MixedPrecision):  # type: ignore[misc]
    """Mixed precision that hands batches and losses on as they are.

    Fabric's own rounds every tensor that enters a module to half precision. A batch holds the geometry of its views,
    which is exact in float64; autocast rounds where it is safe.
    """

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data


def precision_plugin(precision: str, device: str) -> Precision:
    """Fabric's plugin for a recipe's ``fp32``, ``bf16`` or ``fp16`` on a kind of device."""
    if precision == "fp32":
        return Precision()
    return Autocast("bf16-mixed" if precision == "bf16" else "16-mixed", device)
