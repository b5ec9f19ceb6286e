"""What kind of data set lies somewhere, found by looking at it."""

from pathlib import Path

from dflare.errors import InputError
from experiments import arrays, metadata
from experiments.folders import TESTS, TRAIN, find_images, find_splits, is_image, subfolders
from experiments.images import ENDINGS
from experiments.readers import PLACES, is_there


def kind_of(root: Path) -> str:
    """The `data.name` of what lies at a path: a published set, metadata, imagefolder, images or arrays.

    Only names of files and folders are looked at. Raises `InputError` where nothing known lies there, and where more
    than one thing does.
    """
    if root.is_file():
        if root.suffix.lower() in arrays.ENDINGS:
            return "arrays"
        raise InputError(
            f"expected a folder of images, or a .npz or .npy file, at {root} (data.root), got another file"
        )
    if not root.is_dir():
        raise InputError(f"expected a folder of images at {root} (data.root), found none")
    named = [name for name in PLACES if is_there(name, root)]
    if any((folder / metadata.FILE).is_file() for folder in (root, *(root / name for name in (TRAIN, *TESTS)))):
        named.append("metadata")
    kinds = named or _images(root) + ["arrays"] * any(next(root.glob(f"*{end}"), None) for end in arrays.ENDINGS)
    if not kinds:
        raise InputError(
            f"expected image files ({', '.join(ENDINGS)}), {metadata.FILE}, .npz or .npy files in {root} (data.root), "
            "found none"
        )
    if len(kinds) > 1:
        raise InputError(f"{root} (data.root) can be read as {' and as '.join(kinds)}; say which in data.name")
    return kinds[0]


def _images(root: Path) -> list[str]:
    """As what image files in a folder can be read."""
    split = find_splits(root)[0]
    kinds = []
    if any(next(find_images(folder), None) for folder in subfolders(split)):
        kinds.append("imagefolder")
    if any(path.is_file() and is_image(path.name) for path in split.iterdir()):
        kinds.append("images")
    return kinds
