"""Mutations and sets of mutations by name: what `search.mutations` may list."""

import difflib
from collections.abc import Sequence

from dflare.affine import AFFINE
from dflare.elastic import ELASTIC
from dflare.errors import InputError
from dflare.mutations import MUTATIONS, Mutation
from dflare.photometric import PHOTOMETRIC
from dflare.released import RELEASED
from dflare.weather import WEATHER

OPTIONAL: dict[str, Mutation] = {**AFFINE, **ELASTIC, **PHOTOMETRIC, **WEATHER}
"""The mutations beyond those of DFLARE."""

ALL: dict[str, Mutation] = {**MUTATIONS, **RELEASED, **OPTIONAL}
"""Every mutation by name."""

SETS: dict[str, tuple[str, ...]] = {
    "published": tuple(MUTATIONS),
    "released": tuple(RELEASED),
    "affine": tuple(AFFINE),
    "photometric": tuple(PHOTOMETRIC),
    "weather": tuple(WEATHER),
    "optional": tuple(OPTIONAL),
}
"""Name of a set -> the mutations in it; "optional" is all beyond DFLARE's, `elastic` among them."""


def resolve(names: Sequence[str]) -> dict[str, Mutation]:
    """The named mutations and those of the named sets, in order, each once; `InputError` for unknown names or none."""
    known = [*SETS, *ALL]
    if not names:
        raise InputError(f"search.mutations must be some of {', '.join(known)}, got none")
    chosen: dict[str, Mutation] = {}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(f"search.mutations must be some of {', '.join(known)}, got {name!r}{hint}")
        chosen.update({mutation: ALL[mutation] for mutation in SETS.get(name, (name,))})
    return chosen
