"""Move torch modules to another device, with what their graphs say of devices."""

import os
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate


def move_module(module: nn.Module, device: torch.device) -> None:
    """Put a module on a device, in place: weights, buffers, constants, and the devices written in traced graphs.

    An exported program names the device that it was traced on wherever it makes a tensor or asserts what one is
    (`torch.export.passes.move_to_device_pass` rewrites the same places, but only before a program becomes a module).
    """
    with torch.inference_mode(False):  # weights moved in inference mode could not be trained later
        module.to(device)
        for part in module.modules():
            for name, value in list(vars(part).items()):
                if isinstance(value, Tensor):  # neither parameter nor buffer, so `to` leaves it where it is
                    setattr(part, name, value.to(device))
            if isinstance(part, fx.GraphModule):
                _rewrite(part, device)


def _rewrite(graph_module: fx.GraphModule, device: torch.device) -> None:
    """Put this device in place of any other in the arguments of a graph's operators."""

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    changed = False
    for node in graph_module.graph.nodes:
        args, kwargs = map_aggregate(node.args, moved), map_aggregate(node.kwargs, moved)
        if isinstance(kwargs.get("device"), str):
            kwargs = {**kwargs, "device": device}
        if (args, kwargs) != (node.args, node.kwargs):
            node.args, node.kwargs, changed = args, kwargs, True
    if changed:
        graph_module.recompile()


def without_tf32() -> None:
    """Make this process multiply float32 as float32 on a GPU; by default convolutions may round to TF32.

    NVIDIA's libraries read the variable when they start, for all that use them: ONNX Runtime's own switch does not
    reach every convolution (microsoft/onnxruntime, pull request 19470).
    """
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
