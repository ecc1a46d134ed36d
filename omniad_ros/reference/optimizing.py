"""nerfstudio's optimizers where a model's parameters are exchanged during the training."""

from __future__ import annotations


def rebind(optimizers, groups: dict[str, list]) -> None:
    """Tell nerfstudio's optimizers of parameters that took the place of others; their moments start anew."""
    for name, parameters in groups.items():
        if any(old is not new for old, new in zip(optimizers.parameters[name], parameters, strict=True)):
            optimizers.optimizers[name].param_groups[0]["params"] = parameters
            optimizers.optimizers[name].state.clear()
            optimizers.parameters[name] = parameters
