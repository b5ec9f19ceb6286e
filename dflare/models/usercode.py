"""Models that a user's own Python function returns; code, which runs only where the user says so."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dflare.errors import InputError
from dflare.models.answers import scores_in
from dflare.models.interface import Takes
from dflare.models.moving import move_module
from dflare.models.origins import REFERENCE, in_run_folder
from dflare.models.weights import load_weights


class UserModel:
    """Values, float32 (n, ...), to the answers (n, ...) of a user's function or network; see `scores_in`.

    `takes` is the model's own attribute of that name, if it has one.
    """

    def __init__(self, model: Callable[[Tensor], Any], name: str) -> None:
        takes = getattr(model, "takes", Takes())
        if not isinstance(takes, Takes):
            raise InputError(f"takes of {name} must be a dflare.models.interface.Takes, got a {type(takes).__name__}")
        self.model, self.takes, self.name = model, takes, name
        self._device = torch.device("cpu")

    def __call__(self, values: Tensor) -> Tensor:
        try:
            answer = self.model(values.to(self._device))
        except InputError:
            raise
        except Exception as error:
            shape = tuple(values.shape)
            raise InputError(f"{self.name} cannot answer values of shape {shape}: {_reason(error)}") from error
        return scores_in(answer, len(values), self.name).to(values.device)

    def to(self, device: torch.device) -> str | None:
        """Compute on a device from now on, answers where the values lay; None, or why it stays."""
        if not isinstance(self.model, nn.Module):
            return f"{self.name} is no nn.Module, only those can be moved"
        move_module(self.model, device)
        self._device = device
        return None


def call_reference(text: str, weights: Path | None, allow_code: bool) -> UserModel:
    """The model that the function in `package.module:function` returns when called without arguments.

    A network (`nn.Module`) gets the weights, a state dict, is put on the CPU, in evaluation mode and without
    gradients of its parameters; any other callable is taken as it is. The current folder comes first among those in
    which modules are looked for. First weights that the function draws from torch are the same in every process.
    Raises `InputError` without `allow_code`, for code in a run folder, for anything missing or of another kind,
    for what the code raises, and for weights with a callable that is no network.
    """
    found = REFERENCE.fullmatch(text)
    if found is None:
        raise InputError(f"a model in Python must be named package.module:function, got {text!r}")
    if not allow_code:
        raise InputError(f"{text} is code, which runs only with --allow-code")
    if in_run_folder(Path.cwd()):
        raise InputError(f"{text} is looked for in {Path.cwd()}, a run folder, from where code is never run; leave it")
    with _current_folder_first():
        function = _function(_module(found[1], text), found[2], text)
        model = _returned(function, text)
    if isinstance(model, nn.Module):
        return UserModel(_ready(model, weights, text), f"the network of {text}")
    if not callable(model):
        raise InputError(f"{text} must return a network (nn.Module) or a callable, it returned a {_kind(model)}")
    if weights is not None:
        raise InputError(f"{text} returned a {_kind(model)}, no nn.Module, and takes no weights from {weights}")
    return UserModel(model, f"the model of {text}")


@contextmanager
def _current_folder_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _module(name: str, text: str) -> ModuleType:
    """The module of a dotted name; each package on the way is looked at before it is run."""
    parts = name.split(".")
    module = None
    for last in range(1, len(parts) + 1):
        part = ".".join(parts[:last])
        _check_place(part, text)
        try:
            module = importlib.import_module(part)
        except (Exception, SystemExit) as error:
            raise InputError(f"the module {part} of {text} cannot be imported: {_reason(error)}") from error
    assert module is not None
    return module


def _check_place(name: str, text: str) -> None:
    """Raise `InputError` for a module that is not found, or found in a run folder; its own code is not run."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError, AttributeError):  # below a module that is no package; a module without a spec
        spec = None
    if spec is None:
        raise InputError(
            f"expected a module {name} for {text} in {Path.cwd()} or installed, found none; "
            "start in its folder or set PYTHONPATH"
        )
    for place in ([spec.origin] if spec.has_location and spec.origin else []) + list(
        spec.submodule_search_locations or []
    ):
        if in_run_folder(Path(place)):
            raise InputError(f"{text} is code in a run folder ({place}), from where code is never run; move it out")


def _function(module: ModuleType, name: str, text: str) -> Callable[[], Any]:
    function = getattr(module, name, None)
    if function is None:
        raise InputError(f"expected a function {name} for {text} in {module.__file__ or module}, found none")
    if not callable(function):
        raise InputError(f"{text} must be a function without arguments, got a {_kind(function)}")
    return function


def _returned(function: Callable[[], Any], text: str) -> Any:
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            torch.manual_seed(0)
            return function()
    except (Exception, SystemExit) as error:
        raise InputError(f"{text}, called without arguments, raised {_reason(error)}") from error


def _ready(network: nn.Module, weights: Path | None, text: str) -> nn.Module:
    if any(is_lazy(tensor) or tensor.is_meta for tensor in chain(network.parameters(), network.buffers())):
        raise InputError(f"the network of {text} must have all its parameters, some are lazy or on the meta device")
    try:
        network = network.to("cpu")
        if weights is not None:
            load_weights(weights, network)
        _evaluating(network)
        return network.requires_grad_(False)
    except InputError:
        raise
    except Exception as error:  # of the user's own methods
        raise InputError(f"the network of {text} cannot be made ready: {_reason(error)}") from error


def _evaluating(network: nn.Module) -> None:
    """Evaluation mode of a network and all that is in it, but for exported graphs, which have no other mode."""
    try:
        network.eval()
    except NotImplementedError:
        network.training = False
        for child in network.children():
            _evaluating(child)


def _kind(thing: object) -> str:
    return type(thing).__name__


def _reason(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
