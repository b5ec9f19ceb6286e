"""A repair learns, keeps the best weights, continues where it stopped, and its placebo takes as many steps."""

from pathlib import Path

import pytest
import torch
from torch import nn

from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit, fit_steps
from repair.losses import imitation
from repair.module import Batch
from repair.recipes import RECIPES
from repair.trainable import Trainable

SCHEDULE = Schedule(steps=60, learning_rate=1e-2, validate_every=10, patience=100)


def original(images: torch.Tensor) -> torch.Tensor:
    """Which of three thresholds the mean pixel reaches, as scores."""
    return -40 * (images.float().flatten(1).mean(1, keepdim=True) / 255 - torch.tensor([0.3, 0.5, 0.7])).abs()


def examples(n: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(40, 216, (n, 1, 1, 1), generator=generator)
    noise = torch.randint(-40, 41, (n, 1, 4, 4), generator=generator)
    images = (base + noise).clamp(0, 255).to(torch.uint8)
    return Examples(images, original(images).softmax(-1))


def student() -> Trainable:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    return Trainable(module, {}, lambda weights, path: None, lambda path: None)


def data(seed: int = 0) -> RepairData:
    return RepairData(Mixture(examples(50, 1), examples(200, 2), 32, 0.5, seed), 10, examples(40, 3), examples(80, 4))


def test_a_repair_raises_agreement_on_the_validate_side(tmp_path: Path):
    fitted = fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path)
    module = student().module
    held_out = examples(200, 9)
    before = (module(held_out.images.float() / 255).argmax(1) == held_out.targets.argmax(1)).float().mean()
    module.load_state_dict({name: fitted.weights[name] for name in module.state_dict()})
    after = (module(held_out.images.float() / 255).argmax(1) == held_out.targets.argmax(1)).float().mean()
    assert after > before + 0.1
    assert fitted.score is not None
    assert fitted.score > 0.6
    assert fitted.steps % SCHEDULE.validate_every == 0


def test_the_best_weights_are_taken_and_not_the_last(tmp_path: Path):
    """With a rate that ruins everything after a good start, the score of what comes back is the best seen."""
    wild = Schedule(steps=60, learning_rate=3.0, validate_every=10, patience=100)
    fitted = fit(student(), data(), RECIPES["imitation"], wild, tmp_path)
    module = student().module
    module.load_state_dict({name: fitted.weights[name] for name in module.state_dict()})
    shares = [
        (module(side.images.float() / 255).argmax(1) == side.targets.argmax(1)).float().mean()
        for side in data().validate
    ]
    assert fitted.score == pytest.approx(float(sum(shares)) / 2, abs=1e-6)


def test_training_stops_when_the_score_has_not_risen_for_as_long_as_patience_says(tmp_path: Path):
    still = Schedule(steps=1000, learning_rate=0.0, validate_every=10, patience=2)
    fitted = fit(student(), data(), RECIPES["imitation"], still, tmp_path)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert fitted.steps == 10
    assert last["global_step"] == 20  # the start of the third and last epoch


def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path: Path):
    whole = fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path / "whole")
    broken = data()
    load, seen = broken.train_dataloader, []

    def fail_later():
        seen.append(1)
        if len(seen) == 4:
            raise RuntimeError("power cut")
        return load()

    broken.train_dataloader = fail_later  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="power cut"):
        fit(student(), broken, RECIPES["imitation"], SCHEDULE, tmp_path / "parts")
    assert (tmp_path / "parts" / "last.ckpt").exists()
    continued = fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path / "parts")
    assert continued.steps == whole.steps
    assert continued.score == whole.score
    assert all(torch.equal(continued.weights[name], whole.weights[name]) for name in whole.weights)


def test_a_training_interrupted_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path):
    """Lightning's own epoch counter runs ahead from the second continuation on; the batches must not follow it."""
    whole = fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path / "whole")
    for stop_after in (3, 1, 2):
        broken = data()
        load, seen = broken.train_dataloader, []

        def fail_later(load=load, seen=seen, stop_after=stop_after):
            seen.append(1)
            if len(seen) > stop_after:
                raise RuntimeError("power cut")
            return load()

        broken.train_dataloader = fail_later  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="power cut"):
            fit(student(), broken, RECIPES["imitation"], SCHEDULE, tmp_path / "parts")
    continued = fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path / "parts")
    assert (continued.steps, continued.score) == (whole.steps, whole.score)
    assert all(torch.equal(continued.weights[name], whole.weights[name]) for name in whole.weights)


def test_a_finished_training_that_is_run_again_ends_the_same(tmp_path: Path):
    first = fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path)
    again = fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path)
    assert (first.steps, first.score) == (again.steps, again.score)
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)


def test_the_placebo_takes_exactly_the_steps_of_the_repair_with_the_same_rates():
    whole = fit_steps(student(), data(), RECIPES["imitation"], SCHEDULE, 60)
    part = fit_steps(student(), data(), RECIPES["imitation"], SCHEDULE, 25)
    assert part.steps == 25
    assert any(not torch.equal(part.weights[name], whole.weights[name]) for name in whole.weights)


def test_imitation_is_least_where_the_student_is_the_original():
    targets = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    batch = Batch(torch.zeros(2, 1, 1, 1), targets, torch.tensor([True, False]))
    exact = imitation(targets.log(), batch)
    entropy = -(targets * targets.log()).sum(1)
    assert exact["triggers"].item() == pytest.approx(entropy[0].item(), abs=1e-6)
    assert exact["clean"].item() == pytest.approx(entropy[1].item(), abs=1e-6)
    other = imitation(torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0]]), batch)
    assert other["triggers"] > exact["triggers"]
    assert other["clean"] > exact["clean"]


def test_a_batch_of_clean_images_only_has_no_trigger_loss():
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.full((2, 2), 0.5), torch.tensor([False, False]))
    assert imitation(torch.zeros(2, 2), batch)["triggers"].item() == 0
