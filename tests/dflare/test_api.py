"""The search in one call, and the lines of the README that make it."""

import copy
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import dflare
from dflare import InputError, Limits, ModelPair, find_triggers
from dflare.search import Ending
from dflare.seeds import pixel_hash
from dflare.strategies import STRATEGIES

README = Path(__file__).parents[2] / "README.md"


def brighter_than(level: float, wanted: str = "scores"):
    """Class 1 for images brighter than a level of the mean, in [0, 1]; closed form, so every answer is known."""

    def classifier(images: Tensor) -> Tensor:
        # in whole grey levels, summed exactly, so that no batch rounds differently
        excess = (images * 255).round().double().flatten(1).mean(1) / 255 - level
        scores = torch.stack([-excess, excess], dim=1).float()
        return scores.softmax(-1) if wanted == "probabilities" else scores

    return classifier


ORIGINAL, COMPRESSED = brighter_than(0.5), brighter_than(0.45)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Grey images of every brightness; those between the two levels deviate as they are."""
    generator = torch.Generator().manual_seed(0)
    levels = torch.arange(20, 240, 4)[:, None, None, None]
    noise = torch.randint(-10, 11, (len(levels), 1, 8, 8), generator=generator)
    return (levels + noise).to(torch.uint8)


def brightness(images: Tensor) -> Tensor:
    return images.double().flatten(1).mean(1) / 255


@pytest.mark.parametrize("strategy", [name for name, found in STRATEGIES.items() if not found.gradients])
@pytest.mark.slow
def test_what_is_found_lies_where_the_two_are_known_to_disagree(strategy: str, images: Tensor):
    found = find_triggers(ORIGINAL, COMPRESSED, images, strategy=strategy, max_queries=300)
    assert len(found) >= 10
    light = brightness(found.images)
    assert bool(((light > 0.45) & (light < 0.5)).all())
    assert bool(found.verify(ModelPair(ORIGINAL, COMPRESSED)).all())
    assert found.seeds.tolist() == sorted(found.seeds.tolist())
    assert torch.equal(pixel_hash(found.seed_images), found.seeds)


def test_every_seed_is_heard_of_once_and_only_those_that_lead_somewhere_are_triggers(images: Tensor):
    heard: Counter[Ending] = Counter()
    found = find_triggers(
        ORIGINAL,
        COMPRESSED,
        images,
        strategy="random",
        max_queries=3,
        each=lambda ended: heard.update({ended.ending: len(ended.chains)}),
    )
    assert heard.total() == len(images)
    assert heard[Ending.deviated] == len(found)
    light = brightness(images)
    assert heard[Ending.already] == int(((light > 0.45) & (light < 0.5)).sum()) > 0
    assert heard[Ending.exhausted] > 0


def test_neither_order_nor_batch_nor_repetition_nor_numpy_changes_what_is_found(images: Tensor):
    one = find_triggers(ORIGINAL, COMPRESSED, images)
    again = find_triggers(ORIGINAL, COMPRESSED, np.concatenate([images.flip(0).numpy(), images.numpy()]), batch_size=7)
    for name in ("seeds", "images", "queries", "original", "compressed"):
        assert torch.equal(getattr(one, name), getattr(again, name))
    other = find_triggers(ORIGINAL, COMPRESSED, images, seed=1, strategy="random", max_queries=20)
    first = find_triggers(ORIGINAL, COMPRESSED, images, strategy="random", max_queries=20)
    assert not torch.equal(first.images, other.images)


def test_a_pair_that_agrees_everywhere_leaves_an_empty_set(images: Tensor):
    found = find_triggers(ORIGINAL, ORIGINAL, images, max_queries=5)
    assert len(found) == 0
    assert found.verify(ModelPair(ORIGINAL, ORIGINAL)).tolist() == []


def test_limits_are_kept(images: Tensor):
    found = find_triggers(ORIGINAL, COMPRESSED, images, limits=Limits(l_inf=0.1), max_queries=50)
    assert 0 < len(found) < len(images)
    assert float(found.distances["l_inf"].max()) <= 0.1


def test_arrays_and_probabilities_are_read_as_what_they_are(images: Tensor):
    first = find_triggers(ORIGINAL, COMPRESSED, images)
    arrays = find_triggers(lambda pixels: ORIGINAL(pixels).numpy(), lambda pixels: COMPRESSED(pixels).numpy(), images)
    assert torch.equal(arrays.images, first.images)
    sure = [brighter_than(level, "probabilities") for level in (0.5, 0.45)]
    found = find_triggers(*sure, images)
    assert torch.equal(found.seeds, first.seeds)
    assert float(found.original.max()) == 0  # logarithms, relative to the greatest


def test_differentiable_callables_are_searched_by_gradient(images: Tensor):
    torch.manual_seed(0)
    original = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    compressed = copy.deepcopy(original)
    with torch.no_grad():
        compressed[1].weight += 0.02 * torch.randn(3, 64)
    found = find_triggers(original, compressed, images, strategy="gradient", limits=Limits(l_inf=0.5), max_queries=200)
    assert len(found) > 0
    assert bool(found.verify(ModelPair(original, compressed)).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": [[1, 2]]}, "images must be a tensor or an array, uint8 .*got a list"),
        ({"images": np.zeros((2, 1, 8, 8))}, "images must be uint8 .*got float64"),
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "images must be uint8 .*got uint8 \\(2, 8, 8\\)"),
        ({"images": np.zeros((0, 1, 8, 8), np.uint8)}, "one image or more"),
        ({"strategy": "best"}, "search.strategy must be one of dflare.*got 'best'"),
        ({"mutations": ["polish"]}, "polish"),
        ({"max_queries": 0}, "max_queries must be at least 1, got 0"),
        ({"references": 0}, "references must be at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
        ({"original": lambda images: images}, r"original model must return .*scores"),
        ({"original": 7}, "original model must be a callable, got a int"),
        (
            {"compressed": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout())},
            "Dropout is not: call eval",
        ),
        ({"compressed": lambda images: torch.zeros(len(images), 3)}, "must know the same classes, got 2 .* and 3"),
        ({"compressed": lambda images: torch.full((len(images), 2), torch.nan)}, "finite scores, got NaN"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_sentence(change: dict, words: str):
    arguments = {"original": ORIGINAL, "compressed": COMPRESSED, "images": torch.zeros(60, 1, 8, 8, dtype=torch.uint8)}
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=words):
        find_triggers(**(arguments | {"images": images} | change))


def test_the_package_names_what_it_has():
    assert all(getattr(dflare, name).__name__ == name for name in dflare.__all__)
    with pytest.raises(AttributeError, match="no attribute 'search_triggers'"):
        dflare.search_triggers  # noqa: B018


def test_the_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "find_triggers" in block]
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    names: dict = {}
    monkeypatch.chdir(tmp_path)
    exec(block, names)
    assert len(names["triggers"]) > 100
