"""Fetch published data sets, only ever on request; checksums are torchvision's."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dflare.errors import InputError


def fetch_idx(folder: str, root: Path) -> None:
    """MNIST or FashionMNIST into `root`/`folder`/raw."""
    import torchvision.datasets as sets

    with _telling(folder, root):
        {"MNIST": sets.MNIST, "FashionMNIST": sets.FashionMNIST}[folder](str(root), download=True)


def fetch_cifar10(root: Path) -> None:
    """CIFAR-10 into `root`/cifar-10-batches-py; the archive only, because torchvision's own reader unpickles it."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    with _telling("CIFAR-10", root):
        download_and_extract_archive(CIFAR10.url, str(root), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)


@contextmanager
def _telling(name: str, root: Path) -> Iterator[None]:
    """Turn what goes wrong on the way (network, disk, checksum) into an `InputError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name} could not be downloaded into {root} ({reason}); fetch it by hand or set data.root to a folder "
            "that can be written"
        ) from error
