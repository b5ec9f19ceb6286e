"""A repair on another device: `meta` stands for a GPU where no numbers are needed, a believing Lightning elsewhere."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dflare.errors import InputError
from dflare.models.interface import Interface
from dflare.models.moving import move_module
from repair.compression import Compressed, Pruned, Quantized
from repair.data import Examples, Mixture, RepairData
from repair.devices import CPU, on_device, trainer_options
from repair.fit import Schedule, fit, fit_steps
from repair.losses import imitation
from repair.module import Batch
from repair.opening import open_trainable
from repair.recipes import RECIPES
from repair.trainable import Trainable

META = torch.device("meta")
BENCH = Path(os.environ.get("DFLARE_BENCH") or Path(__file__).parents[2].parent / "shared")


class Offset(nn.Module):
    """A linear network with a device and a constant in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        ramp = torch.arange(3, device="cpu").float() + torch.tensor([1.0, 2.0, 3.0])
        return self.linear(images.flatten(1)) + 0 * ramp


def trainable(module: nn.Module) -> Trainable:
    return Trainable(module, {}, lambda weights, path: None, lambda path: None)


def data() -> RepairData:
    generator = torch.Generator().manual_seed(0)

    def examples(n: int) -> Examples:
        images = torch.randint(0, 256, (n, 1, 4, 4), generator=generator).to(torch.uint8)
        return Examples(images, torch.rand(n, 3, generator=generator).softmax(-1))

    return RepairData(Mixture(examples(20), examples(40), 8, 0.5, 0), 5, examples(10), examples(10))


def one_step(student: nn.Module, shape: tuple[int, ...], classes: int, device: torch.device) -> Tensor:
    """The loss of one batch on a device, its gradients left in the student."""
    images, targets = torch.rand(4, *shape, device=device), torch.rand(4, classes, device=device)
    batch = Batch(images, targets, torch.zeros(4, dtype=torch.bool, device=device))
    loss = torch.stack(list(imitation(student(batch.images), batch).values())).sum()
    loss.backward()
    return loss


def test_projections_and_constants_of_preprocessing_move_along() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 8), nn.ReLU(), nn.Linear(8, 5))
    plan = {
        "1.weight": Pruned(torch.ones(8, 48, dtype=torch.bool)),
        "3.weight": Quantized(torch.full((5, 1), 0.1), torch.zeros(5, 1), -128, 127),
    }
    shown = Trainable(
        module,
        plan,
        lambda weights, path: None,
        lambda path: None,
        interface=Interface(channels="rgb", mean=(0.1, 0.2, 0.3), std=(1, 2, 3), scores="probabilities", classes="0-2"),
    ).shown
    student = Compressed(module, plan, shown)
    move_module(student, META)
    assert one_step(student, (1, 4, 4), 3, META).device == META
    assert all(weight.grad is not None and weight.grad.device == META for weight in student.parameters())


def test_a_quantised_gradient_comes_through_on_another_device() -> None:
    weight = nn.Parameter(torch.rand(4, 4, device=META))
    grid = Quantized(torch.tensor(0.1), torch.tensor(0.0), -128, 127).to(META)
    grid(weight).sum().backward()
    assert weight.grad is not None
    assert grid.integers(weight).device == META


@pytest.mark.slow
@pytest.mark.skipif(not (BENCH / "models").is_dir(), reason="needs the real models of DFLARE_BENCH")
@pytest.mark.parametrize(
    ("file", "shape"),
    [
        ("mnist_lenet-5/int8.onnx", (1, 28, 28)),
        ("mnist_lenet-5/distilled.pt2", (1, 28, 28)),
        ("cifar-10_resnet20/int8.onnx", (3, 32, 32)),
        ("cifar-10_resnet20/pruned.pt2", (3, 32, 32)),
    ],
)
def test_real_files_are_trained_whole_on_another_device(file: str, shape: tuple[int, ...]) -> None:
    opened = open_trainable(BENCH / "models" / file)
    student = Compressed(opened.module, opened.plan, opened.shown)
    move_module(student, META)
    one_step(student, shape, 10, META)
    wanted = [weight for weight in student.parameters() if weight.requires_grad]
    assert all(weight.grad is not None and weight.grad.device == META for weight in wanted)


def test_a_module_is_put_back_on_the_cpu_also_when_its_training_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[torch.device] = []
    monkeypatch.setattr("repair.devices.move_module", lambda module, device: moves.append(device))
    with pytest.raises(RuntimeError, match="power cut"), on_device(Offset(), META):
        raise RuntimeError("power cut")
    assert moves == [META, CPU]


def test_the_cpu_needs_nothing() -> None:
    strict = torch.are_deterministic_algorithms_enabled()
    module = Offset()
    with on_device(module, CPU):
        assert torch.are_deterministic_algorithms_enabled() == strict
    assert next(module.parameters()).device == CPU


def test_what_has_no_deterministic_gradient_is_no_error_on_a_gpu_and_one_again_afterwards() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with on_device(nn.Identity(), META):
            assert torch.are_deterministic_algorithms_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


def test_lightning_is_told_the_card_and_the_precision() -> None:
    assert trainer_options(torch.device("cuda", 3), "16-mixed") == {
        "accelerator": "cuda",
        "devices": [3],
        "precision": "16-mixed",
        "strategy": "auto",
    }
    cpu = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "strategy": "ddp"}
    assert trainer_options(CPU, "32-true", "ddp") == cpu


def test_a_strategy_that_lightning_does_not_know_is_refused_by_name():
    with pytest.raises(InputError, match=r"trainer\.strategy must be auto or .*\bddp\b.*, got 'dpp'"):
        trainer_options(CPU, "32-true", "dpp")


def test_a_strategy_that_this_machine_lacks_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trainer\.strategy=fsdp cannot be used here"):
        fit_steps(trainable(Offset()), data(), RECIPES["imitation"], Schedule(5, 1e-2, 5, 10, strategy="fsdp"), 5)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_a_strategy_that_would_wait_for_other_workers_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    assert trainer_options(CPU, "32-true")["strategy"] == "auto"
    with pytest.raises(InputError, match="waits for every worker, but a repair runs on the first alone"):
        trainer_options(CPU, "32-true", "ddp")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*NCCL.*", "ignore:.*barrier.*", "ignore:.*process group.*")
def test_ddp_on_one_device_trains_the_same_weights() -> None:
    plain, spread = (Schedule(5, 1e-2, 5, 10, strategy=strategy) for strategy in ("auto", "ddp"))
    results = []
    for schedule in (plain, spread):
        torch.manual_seed(0)
        results.append(fit_steps(trainable(Offset()), data(), RECIPES["imitation"], schedule, 5).weights)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_lightning_takes_that_card(monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning as pl

    from repair import lightning

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("lightning_fabric.accelerators.cuda.num_cuda_devices", lambda: 4)
    monkeypatch.setattr("pytorch_lightning.accelerators.cuda.num_cuda_devices", lambda: 4)
    with lightning.quiet():
        options = trainer_options(torch.device("cuda", 3), "bf16-mixed")
        trainer = pl.Trainer(**options, logger=False, enable_checkpointing=False)
    assert trainer.strategy.root_device == torch.device("cuda", 3)
    assert trainer.precision == "bf16-mixed"


def test_half_precision_on_the_cpu_is_refused(tmp_path: Path) -> None:
    half = Schedule(5, 1e-2, 5, 10, precision="16-mixed")
    with pytest.raises(InputError, match=r"trainer\.precision=16-mixed needs a GPU"):
        fit(trainable(Offset()), data(), RECIPES["imitation"], half, tmp_path)


def test_mixed_precision_trains_and_leaves_float32_weights(tmp_path: Path) -> None:
    plain, mixed = (Schedule(10, 1e-2, 5, 10, precision=precision) for precision in ("32-true", "bf16-mixed"))
    torch.manual_seed(0)
    module = Offset()
    start = {name: value.clone() for name, value in module.state_dict().items()}
    exact = fit_steps(trainable(module), data(), RECIPES["imitation"], plain, 10).weights
    module.load_state_dict(start)
    rough = fit(trainable(module), data(), RECIPES["imitation"], mixed, tmp_path).weights
    assert all(weight.dtype == torch.float32 for weight in rough.values())
    assert not torch.equal(rough["linear.weight"], exact["linear.weight"])
    assert torch.allclose(rough["linear.weight"], exact["linear.weight"], atol=0.05)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
def test_batches_are_pinned_when_they_go_to_a_gpu() -> None:
    loaded = data()
    assert not loaded.train_dataloader().pin_memory
    for kind, pinned in (("cpu", False), ("cuda", True)):
        strategy = SimpleNamespace(root_device=torch.device(kind))
        loaded.trainer = SimpleNamespace(global_step=0, strategy=strategy)  # type: ignore[assignment]
        assert loaded.train_dataloader().pin_memory == pinned
        assert loaded.val_dataloader().pin_memory == pinned
