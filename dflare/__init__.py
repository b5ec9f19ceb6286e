"""The search for images on which a compressed classifier no longer answers as its original does.

The names below are imported when they are first used, so that importing `dflare` costs nothing.
"""

from importlib import import_module
from typing import Any

_PLACES = {
    "find_triggers": "dflare.api",
    "open_classifier": "dflare.models.opening",
    "Interface": "dflare.models.interface",
    "Shown": "dflare.models.shown",
    "Limits": "dflare.limits",
    "ModelPair": "dflare.classifiers",
    "TriggerSet": "dflare.triggers",
    "InputError": "dflare.errors",
}

__all__ = [*_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
