"""Training on a GPU, and everything as before afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dflare.errors import InputError
from dflare.models.moving import move_module, without_tf32

CPU = torch.device("cpu")


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """A module ready to be trained on a device; it is back on the CPU when the training ends, however that ends.

    Lightning moves parameters and buffers by itself; the devices written in exported graphs it does not know. Some
    gradients (of adaptive pooling, of reflected padding) have no deterministic kernel on a GPU; where the process
    asks for such, they are computed by the kernel that there is, in place of an error.
    """
    if device.type == "cpu":
        yield
        return
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    without_tf32()
    try:
        move_module(module, device)
        torch.use_deterministic_algorithms(strict, warn_only=True)
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
        move_module(module, CPU)


def trainer_options(device: torch.device, precision: str) -> dict[str, Any]:
    """How Lightning's `Trainer` is told so; raises `InputError` for a precision that the device lacks."""
    if device.type == "cpu":
        if precision == "16-mixed":
            raise InputError(
                "trainer.precision=16-mixed needs a GPU, the repair runs on the CPU; set it to 32-true or bf16-mixed"
            )
        return {"accelerator": "cpu", "devices": 1, "precision": precision}
    return {"accelerator": device.type, "devices": [device.index or 0], "precision": precision}
