"""A repair learns, keeps the best weights, continues where it stopped, and its placebo takes as many steps."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from dflare.errors import InputError
from repair.data import Examples, Mixture, RepairData
from repair.fit import Schedule, fit, fit_steps
from repair.keeping import KeepBest, SaveLast, last_of
from repair.losses import imitation
from repair.module import Batch, Repair
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


def convolving() -> Trainable:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(16, 3))
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


@pytest.mark.parametrize(
    ("scores", "error", "kept"),
    [
        ([0.5, 0.8, 0.79, 0.6], 0.02, 2),  # as good as the best, and later
        ([0.5, 0.8, 0.77, 0.6], 0.02, 1),
        ([0.5, 0.6, 0.7, 0.8], 0.02, 3),
        ([0.8, 0.7, 0.7, 0.7], 0.0, 0),
    ],
)
def test_the_latest_weights_within_one_standard_error_of_the_best_are_kept(scores, error, kept, tmp_path):
    keep, saved = KeepBest(tmp_path), []
    for number, score in enumerate(scores):

        def save(path: Path, number: int = number) -> None:
            path.touch()
            saved.append(number)

        metrics = {"validate/score": torch.tensor(score), "validate/error": torch.tensor(error)}
        keep.on_validation_end(SimpleNamespace(callback_metrics=metrics, save_checkpoint=save), None)  # type: ignore[arg-type]
    assert saved[-1] == kept
    assert keep.kept == pytest.approx(scores[kept])


def test_training_stops_when_the_score_has_not_risen_for_as_long_as_patience_says(tmp_path: Path):
    still = Schedule(steps=1000, learning_rate=0.0, validate_every=10, patience=2)
    fitted = fit(student(), data(), RECIPES["imitation"], still, tmp_path)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert fitted.steps == 30  # equal scores: the latest weights are taken
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


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half of one"])
def test_a_broken_checkpoint_is_refused_in_one_sentence(content: bytes, tmp_path: Path):
    for name, read in (("last", lambda: last_of(tmp_path)), ("best", KeepBest(tmp_path).read)):
        (tmp_path / f"{name}.ckpt").write_bytes(content)
        with pytest.raises(InputError, match=rf"in .*{name}\.ckpt, found none that can be read; remove the folder"):
            read()


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


def cut_in_a_step(patch: pytest.MonkeyPatch, number: int) -> None:
    step = Repair.training_step

    def broken(module, batch, batch_idx):
        if module.global_step == number:
            raise RuntimeError("power cut")
        return step(module, batch, batch_idx)

    patch.setattr(Repair, "training_step", broken)


def cut_after_the_second_validation(patch: pytest.MonkeyPatch, number: int) -> None:
    """Between the best weights' checkpoint and the end of the validation."""
    check, seen = EarlyStopping.on_validation_end, []

    def broken(stopping, trainer, pl_module):
        check(stopping, trainer, pl_module)
        seen.append(1)
        if len(seen) == number:
            raise RuntimeError("power cut")

    patch.setattr(EarlyStopping, "on_validation_end", broken)


def cut_before_the_second_last(patch: pytest.MonkeyPatch, number: int) -> None:
    """Between the best weights' checkpoint and that of the state from which a training continues."""
    save, seen = SaveLast.on_train_epoch_start, []

    def broken(saving, trainer, pl_module):
        seen.append(1)
        if len(seen) == number:
            raise RuntimeError("power cut")
        save(saving, trainer, pl_module)

    patch.setattr(SaveLast, "on_train_epoch_start", broken)


@pytest.mark.parametrize("recipe", ["imitation", "sgd"])
@pytest.mark.parametrize(
    ("cut", "number"),
    [
        (cut_in_a_step, 5),
        (cut_in_a_step, 20),
        (cut_in_a_step, 29),
        (cut_after_the_second_validation, 2),
        (cut_before_the_second_last, 2),
    ],
)
def test_a_training_killed_anywhere_ends_with_the_same_bits(recipe, cut, number, tmp_path, monkeypatch):
    short = Schedule(steps=30, learning_rate=1e-2, validate_every=10, patience=100)
    whole = fit(convolving(), data(), RECIPES[recipe], short, tmp_path / "whole")
    with monkeypatch.context() as patch:
        cut(patch, number)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(convolving(), data(), RECIPES[recipe], short, tmp_path / "parts")
    again = fit(convolving(), data(), RECIPES[recipe], short, tmp_path / "parts")
    assert (again.steps, again.score) == (whole.steps, whole.score)
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


def test_a_state_in_another_memory_layout_is_put_into_that_of_the_weights(tmp_path, monkeypatch):
    """Fused optimisers go through weights and states side by side in memory and look at no strides."""
    short = Schedule(steps=30, learning_rate=1e-2, validate_every=10, patience=100)
    whole = fit(convolving(), data(), RECIPES["imitation"], short, tmp_path / "whole")
    with monkeypatch.context() as patch:
        cut_in_a_step(patch, 25)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(convolving(), data(), RECIPES["imitation"], short, tmp_path / "parts")
    last = tmp_path / "parts" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    states = saved["optimizer_states"][0]["state"]
    assert any(not state["exp_avg"].is_contiguous() for state in states.values())  # channels last, as the weights
    for state in states.values():
        state.update(exp_avg=state["exp_avg"].contiguous(), exp_avg_sq=state["exp_avg_sq"].contiguous())
    torch.save(saved, last)
    again = fit(convolving(), data(), RECIPES["imitation"], short, tmp_path / "parts")
    assert all(torch.equal(again.weights[name], whole.weights[name]) for name in whole.weights)


def test_weights_come_back_contiguous_and_the_module_as_it_was(tmp_path):
    opened = convolving()
    fitted = fit_steps(opened, data(), RECIPES["imitation"], SCHEDULE, 3)
    assert all(weight.is_contiguous() for weight in fitted.weights.values())
    assert all(weight.is_contiguous() for weight in opened.module.parameters())


def test_a_graph_that_views_is_trained_as_it_is(tmp_path):
    """`view` refuses values with their channels last, which only costs the speed that they bring."""

    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Conv2d(1, 2, 3)
            self.linear = nn.Linear(8, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.linear(self.kernel(images).view(-1, 8))

    opened = Trainable(Viewing(), {}, lambda weights, path: None, lambda path: None)
    before = {name: weight.detach().clone() for name, weight in opened.module.named_parameters()}
    fitted = fit_steps(opened, data(), RECIPES["imitation"], SCHEDULE, 3)
    assert all(not torch.equal(fitted.weights[name], before[name]) for name in before)


def test_a_logger_gets_the_terms_of_the_steps_that_it_writes(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="", flush_logs_every_n_steps=1)
    short = Schedule(steps=20, learning_rate=1e-2, validate_every=10, patience=100)
    fit(student(), data(), RECIPES["imitation"], short, tmp_path / "parts", logger)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/triggers"]]
    assert [int(row["step"]) for row in rows] == [9, 19]
    assert all(float(row["train/clean"]) > 0 for row in rows)


def test_a_training_writes_into_its_folder_and_nowhere_else(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fit(student(), data(), RECIPES["imitation"], SCHEDULE, tmp_path / "folder")
    assert not list((tmp_path / "elsewhere").iterdir())
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["best.ckpt", "last.ckpt"]
