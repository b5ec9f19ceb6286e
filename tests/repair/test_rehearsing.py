"""A recipe that a model cannot be repaired by is refused on one image, before any search."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflare.errors import InputError
from repair.pt2_models.artifact import open_exported
from repair.recipes import RECIPES
from repair.rehearsing import rehearse
from repair.trainable import Trainable

IMAGES = torch.arange(64, dtype=torch.uint8).view(4, 1, 4, 4)


class Small(nn.Module):
    """A kernel of so many channels and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.kernel, self.linear = nn.Conv2d(1, channels, 3), nn.Linear(4 * channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.kernel(images).relu().flatten(1))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Trainable]:
    """A float model of so many channels, opened for a recipe by name."""
    folder = tmp_path_factory.mktemp("models")
    batch = torch.export.Dim("batch", min=1, max=64)
    for channels in (2, 3):
        program = torch.export.export(Small(channels), (torch.rand(2, 1, 4, 4),), dynamic_shapes=({0: batch},))
        torch.export.save(program, folder / f"{channels}.pt2")
    return lambda name, channels: open_exported(Path(folder) / f"{channels}.pt2", RECIPES[name].scales)


def never() -> Trainable:
    raise AssertionError("the original is not asked")


@pytest.mark.parametrize("name", ["imitation", "last", "bias", "responsible", "hinge", "anchored"])
def test_a_float_model_is_repaired_by_recipes_that_move_weights(name: str, opened: Callable[[str, int], Trainable]):
    rehearse(RECIPES[name], opened(name, 2), never, IMAGES)


@pytest.mark.parametrize(
    ("name", "words"),
    [("scales", "free=scales"), ("limits", "free=limits"), ("rounding", "rounding=learned .* found none")],
)
def test_what_a_float_model_lacks_is_said(name: str, words: str, opened: Callable[[str, int], Trainable]):
    with pytest.raises(InputError, match=words):
        rehearse(RECIPES[name], opened(name, 2), never, IMAGES)


def test_a_correction_needs_an_original_of_the_same_layers(opened: Callable[[str, int], Trainable]):
    rehearse(RECIPES["corrected"], opened("corrected", 2), lambda: opened("imitation", 2), IMAGES)
    with pytest.raises(InputError, match=r"correction=bias .* needs an original with the compressed model's layers"):
        rehearse(RECIPES["corrected"], opened("corrected", 2), lambda: opened("imitation", 3), IMAGES)
