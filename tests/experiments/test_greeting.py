"""What one's own pair is shown before anything is searched."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.shown import Shown
from dflare.seeds import Seeds, pixel_hash
from dflare.triggers import Side
from experiments import greeting
from experiments.config import Config
from experiments.greeting import greeted
from experiments.opening import WHICH, Source
from experiments.subject import Subject

SIZE = 8


class Greys(nn.Module):
    """How near (n, 3) the mean of images is to dark, middle and light, for a white of 1."""

    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.25, 0.45, 0.65]))
        self.softmax = softmax

    def forward(self, images: Tensor) -> Tensor:
        scores = -100 * (images.mean((1, 2, 3))[:, None] - self.levels).square()
        odds = (scores - scores.amax(-1, keepdim=True)).exp()  # a softmax that no reader of files knows as one
        return odds / odds.sum(-1, keepdim=True) if self.softmax else scores


@pytest.fixture(scope="module")
def models(toys: Any) -> Any:
    toys.save("greys", Greys(), (3, SIZE, SIZE))
    toys.save("grey-probabilities", Greys(softmax=True), (3, SIZE, SIZE))
    return toys


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a person at a terminal reads."""
    lines: list[str] = []
    monkeypatch.setattr(greeting, "say", lines.append)
    return lines


def subject(original: Path, compressed: Path, *interfaces: Interface, labels: bool = True, names: int = 3) -> Subject:
    generator = torch.Generator().manual_seed(0)
    known = torch.arange(90) % 3
    levels = torch.tensor([0.25, 0.45, 0.65])[known][:, None, None, None]
    values = levels + 0.1 * torch.randn(90, 3, SIZE, SIZE, generator=generator)
    images = (values.clamp(0, 1) * 255).round().to(torch.uint8)
    seeds = Seeds(images, pixel_hash(images), known if labels else None)
    sides = {side: seeds.take(slice(30 * number, 30 * number + 30)) for number, side in enumerate(Side)}
    sides[Side.train] = seeds
    shown = interfaces or (Interface(), Interface())
    sources = {
        which: Source(str(path), one) for which, path, one in zip(WHICH, (original, compressed), shown, strict=True)
    }
    return Subject(
        "own", sources["original"].open, sources["compressed"].open, sources, sides, ("dark", "middle", "light")[:names]
    )


def settings(**changes: Any) -> Config:
    config = Config(**changes)
    config.preflight.images = 60
    return config


def test_a_pair_shown_rightly_is_greeted_with_its_figures(models: Any, said: list[str]) -> None:
    own = subject(models.model("greys"), models.model("greys"))
    after = greeted(own, settings())
    assert after.sources == own.sources
    accuracy = {"original": 1.0, "compressed": 1.0}
    assert after.preflight == {"images": 60, "agreed": 60, "accuracy": accuracy, "warnings": []}
    assert said == [
        "pre-flight: original and compressed agree on 100.0 % of 60 real images (accuracy 100.0 and 100.0 %)"
    ]


@pytest.mark.parametrize("labels", [True, False], ids=["labelled", "unlabelled"])
def test_a_wrong_range_is_refused_in_one_sentence_with_its_repair(models: Any, labels: bool, said: list[str]) -> None:
    own = subject(models.model("greys"), models.model("greys"), Interface(range=(0, 255)), Interface(), labels=labels)
    with pytest.raises(InputError, match=r"agree on .* % of 60 real images, expected 70 %") as caught:
        greeted(own, settings())
    assert "set models.original.range=[0,1]" in str(caught.value)
    assert said == []


def test_both_wrong_is_a_warning_that_is_kept(models: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wide = Interface(range=(0, 255))
    own = subject(models.model("greys"), models.model("greys"), wide, wide)
    after = greeted(own, settings())
    advice = "perhaps set models.both.range=[0,1]"
    assert advice in capsys.readouterr().err
    assert after.preflight is not None
    assert advice in after.preflight["warnings"][0]


def test_a_quick_look_has_no_bar(models: Any, said: list[str]) -> None:
    own = subject(models.model("greys"), models.model("greys"), Interface(range=(0, 255)), Interface())
    greeted(own, settings(fast_dev=True))
    assert "of 8 real images" in said[0]


def test_labels_of_other_classes_give_no_accuracy(models: Any, said: list[str]) -> None:
    own = subject(models.model("greys"), models.model("greys"), names=1)
    greeted(own, settings())
    assert said == ["pre-flight: original and compressed agree on 100.0 % of 60 real images"]


def test_probabilities_are_found_out_and_read_as_such_by_every_later_opening(models: Any) -> None:
    own = subject(models.model("greys"), models.model("grey-probabilities"))
    after = greeted(own, settings())
    assert after.sources["original"] == own.sources["original"]
    assert after.sources["compressed"].interface == Interface(scores="probabilities")
    assert Source.from_json(after.sources["compressed"].to_json()).interface.scores == "probabilities"
    opened = after.open_compressed()
    assert isinstance(opened, Shown)
    images = own.sides[Side.judge].images
    outputs = after.pair()(images)
    assert outputs.probabilities[1].numpy() == pytest.approx(outputs.probabilities[0].numpy(), abs=1e-6)
    assert outputs.compressed.amax() == 0  # logarithms relative to the greatest
    assert own.sources["compressed"].interface == Interface()


def test_said_scores_are_believed(models: Any) -> None:
    own = subject(models.model("greys"), models.model("grey-probabilities"), Interface(), Interface(scores="logits"))
    assert greeted(own, settings()).sources == own.sources


def test_a_pair_in_memory_must_return_logits() -> None:
    images = torch.randint(0, 256, (6, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sides = dict.fromkeys(Side, Seeds(images, pixel_hash(images)))
    config = settings()
    config.pair.name = "imagenet:mobilenet"
    good, bad = Greys(), Greys(softmax=True)
    zoo = Subject("zoo", lambda: good, lambda: good, {}, sides, ())
    assert greeted(zoo, config) is zoo
    with pytest.raises(InputError, match="the compressed model must return scores before the softmax"):
        greeted(Subject("zoo", lambda: good, lambda: bad, {}, sides, ()), config)


def test_what_the_pre_flight_asks_is_not_counted_as_a_query(models: Any) -> None:
    own = subject(models.model("greys"), models.model("greys"))
    assert greeted(own, settings()).pair().asked == [0]
