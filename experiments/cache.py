"""Folders that are made once and kept: whole or not there at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from dflare.errors import InputError


def cached(cache: Path, name: str, fingerprint: str, make: Callable[[Path], None]) -> Path:
    """The entry's folder, `<name>-<hash of the fingerprint>`; `make` fills it where it is not there yet.

    It is filled under a temporary name and renamed when done, so that an interrupted build leaves no entry; of two
    builds side by side the first to end stays. Raises `InputError` where the cache cannot be written.
    """
    entry = cache / f"{name}-{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"
    if entry.is_dir():
        return entry
    try:
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
    except OSError as error:
        raise InputError(f"expected a folder for models that can be written at {cache}: {error.strerror}") from error
    try:
        make(building)
        for path in building.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        building.chmod(0o755)  # mkdtemp makes folders that nobody else can read
        try:
            building.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return entry
