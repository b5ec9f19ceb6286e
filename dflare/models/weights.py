"""State dicts read from files into networks, as data: whatever would have to be executed is refused."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dflare.errors import InputError, first_line
from dflare.models.formats import REFUSED, kind_of

_NESTED = ("state_dict", "model_state_dict", "model")
"""Names under which training scripts keep the state dict in a checkpoint."""

_UNUSED = "num_batches_tracked"
"""A counter of batch normalisation that answers do not depend on; files from before torch 0.4.1 lack it."""


def load_weights(path: Path, module: nn.Module) -> None:
    """Copy the state dict in a file into a network; every name must be there, none may be left over.

    Read are files of `torch.save`, old and new, and `.safetensors`, also with the state dict inside a checkpoint and
    with a prefix such as `module.` before all names. Raises `InputError` for anything else, for names and shapes
    that do not fit, and for weights that are not finite; the network is as it was then.
    """
    state = _renamed(_state_dict(path), set(module.state_dict()))
    wanted = module.state_dict()
    _check_names(path, state, wanted)
    for name, tensor in state.items():
        _check_tensor(path, name, tensor, wanted[name])
    module.load_state_dict(state, strict=False)


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a file, or in the entry of a checkpoint that holds them."""
    content = _read(path)
    for name in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"expected a state dict in {path}, tensors by name, got a {type(content).__name__}")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise InputError(f"the state dict in {path} must hold nothing but tensors, it also holds {_some(others)}")
    return {str(name): value for name, value in content.items()}


def _read(path: Path) -> Any:
    """What a file holds, tensors and plain containers only."""
    kind = kind_of(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind not in ("torch weights", "pickle"):
        what = REFUSED[kind][0] if kind in REFUSED else f"a model of format {kind}"
        raise InputError(f"expected weights of torch.save or safetensors in {path}, but it looks like {what}")
    try:
        with warnings.catch_warnings():
            # torch 2.15 says so of sparse weights, which are refused below
            warnings.filterwarnings("ignore", "Validating sparse tensor invariants", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "WeightsUnpickler" in str(error) or "Weights only load failed" in str(error):
            raise InputError(
                f"the file {path} must hold nothing but tensors: "
                "save the state dict alone, torch.save(model.state_dict(), ...)"
            ) from error
        raise InputError(f"the weights in {path} cannot be read: {first_line(error)}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        load_file = import_module("safetensors.torch").load_file
    except ImportError as error:
        raise InputError(f"{path} needs the package safetensors, which is missing: pip install safetensors") from error
    try:
        content: dict[str, Tensor] = load_file(path, device="cpu")
    except Exception as error:
        raise InputError(f"the weights in {path} cannot be read: {first_line(error)}") from error
    return content


def _renamed(state: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The state dict without the prefix that all its names share, if the names fit the wanted ones better then."""
    best = state
    while state and len({name.partition(".")[0] for name in state}) == 1 and all("." in name for name in state):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
        if len(wanted & set(state)) > len(wanted & set(best)):
            best = state
    return best


def _check_names(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing = [name for name in wanted if name not in state and name.split(".")[-1] != _UNUSED]
    unexpected = [name for name in state if name not in wanted]
    parts = [f"lack {_some(missing)}"] if missing else []
    parts += [f"have {_some(unexpected)}, which it has not"] if unexpected else []
    if parts:
        raise InputError(f"the weights in {path} must be those of the network, but they {' and '.join(parts)}")


def _check_tensor(path: Path, name: str, tensor: Tensor, wanted: Tensor) -> None:
    if tensor.shape != wanted.shape:
        raise InputError(
            f"the weights in {path} must be those of the network, but {name} has the shape {tuple(tensor.shape)} "
            f"in place of {tuple(wanted.shape)}"
        )
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_floating_point() != wanted.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(
            f"the weights in {path} must be plain numbers of the network's types, but {name} is {kind} in place of "
            f"{str(wanted.dtype).removeprefix('torch.')}, sparse or without numbers"
        )
    if tensor.is_floating_point() and not bool(tensor.to(wanted.dtype).isfinite().all()):
        raise InputError(f"the weights in {path} must be finite, but {name} has NaN or infinity")


def _some(names: list[str]) -> str:
    """The first three of some names, and how many more there are."""
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
