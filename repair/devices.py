"""Training on a GPU, and everything as before afterwards."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dflare.errors import InputError
from dflare.models.moving import move_module, without_tf32

CPU = torch.device("cpu")

_VARIANTS = re.compile("notebook|fork|spawn|find_unused|offload")
"""Variants that Lightning knows too and an error need not list."""


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


def trainer_options(device: torch.device, precision: str, strategy: str = "auto") -> dict[str, Any]:
    """How Lightning's `Trainer` is told so.

    `strategy` is Lightning's name (ddp, fsdp, deepspeed_stage_2, ...), which gets this one device. Raises `InputError`
    for a name that Lightning does not know, for one other than auto where several workers run, whom Lightning would
    wait for though only the first repairs, and for a precision that the device lacks.
    """
    _check_strategy(strategy)
    if device.type == "cpu":
        if precision == "16-mixed":
            raise InputError(
                "trainer.precision=16-mixed needs a GPU, the repair runs on the CPU; set it to 32-true or bf16-mixed"
            )
        return {"accelerator": "cpu", "devices": 1, "precision": precision, "strategy": strategy}
    devices = [device.index or 0]
    return {"accelerator": device.type, "devices": devices, "precision": precision, "strategy": strategy}


def _check_strategy(strategy: str) -> None:
    if strategy == "auto":
        return
    from pytorch_lightning.strategies import StrategyRegistry

    known = sorted(name for name in StrategyRegistry.available_strategies() if not _VARIANTS.search(name))
    if strategy not in StrategyRegistry.available_strategies():
        raise InputError(
            f"trainer.strategy must be auto or a strategy of Lightning ({', '.join(known)}), got {strategy!r}"
        )
    if max(int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "SLURM_NTASKS")) > 1:
        raise InputError(
            f"trainer.strategy={strategy} waits for every worker, but a repair runs on the first alone; "
            "set it to auto, or run without torchrun, srun and further workers"
        )
