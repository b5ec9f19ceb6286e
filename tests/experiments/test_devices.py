"""Which device a run computes on; what a GPU would say is put into torch's mouth."""

from types import SimpleNamespace

import pytest
import torch

from dflare.errors import InputError
from experiments import devices
from experiments.devices import Placer, describe, device_of
from experiments.settings import load_config

CPU = torch.device("cpu")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Makes torch believe in so many GPUs; for none, `error` is what it says when it looks for them."""

    def believe(
        count: int, error: str = "Found no NVIDIA driver on your system. Please check that you have one."
    ) -> None:
        def look() -> None:
            raise RuntimeError(error)

        monkeypatch.setattr(torch.version, "cuda", "13.2")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "init", look)

    return believe


def test_cpu_is_the_cpu_whatever_there_is(gpus) -> None:
    gpus(4)
    assert device_of("cpu", 3) == CPU


@pytest.mark.parametrize("accelerator", ["gpu", "auto"])
def test_workers_share_the_gpus_of_their_node_in_turn(gpus, accelerator: str) -> None:
    gpus(2)
    assert [str(device_of(accelerator, rank)) for rank in range(5)] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cuda:1",
        "cuda:0",
    ]


def test_auto_is_the_cpu_where_there_is_no_gpu(gpus) -> None:
    gpus(0)
    assert device_of("auto") == CPU


def test_gpu_without_one_is_refused_in_one_sentence(gpus) -> None:
    gpus(0)
    with pytest.raises(InputError) as refused:
        device_of("gpu")
    assert str(refused.value) == (
        "trainer.accelerator=gpu needs a GPU that torch can use, found none: Found no NVIDIA driver on your system; "
        "set trainer.accelerator=cpu, or auto to use one only where it is"
    )


def test_a_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(
        InputError, match=f"found none: torch {torch.__version__.split('+')[0]}.* is built without CUDA;"
    ):
        device_of("gpu")


def test_gpus_that_are_hidden_from_this_process_are_none(gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(0)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    with pytest.raises(InputError, match="found none: no GPU is visible to this process;"):
        device_of("gpu")


def test_this_machine_says_why_or_has_one() -> None:
    count, why = devices.usable_gpus()
    assert (count > 0) == (why == "")


def test_the_device_in_use_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe(CPU) == {"device": "cpu"}
    card = SimpleNamespace(name="NVIDIA H200", major=9, minor=0, total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    said = describe(torch.device("cuda", 1))
    assert (said["device"], said["name"], said["capability"], said["bytes"]) == ("cuda:1", "NVIDIA H200", "9.0", 2**37)


def test_what_stays_on_the_cpu_is_said_once_and_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    placer = Placer(torch.device("meta"))
    for _ in range(2):  # opened to search, and to confirm
        for which in ("original", "compressed"):
            placer(lambda images: images, which)
    why = "a function says not how to move it"
    assert placer.stays == {"original": why, "compressed": why}
    assert capsys.readouterr().err.splitlines() == [
        f"dflare: the {which} model stays on the CPU: {why}" for which in ("original", "compressed")
    ]


def test_on_the_cpu_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def classifier(images: torch.Tensor) -> torch.Tensor:
        return images

    assert Placer()(classifier, "original") is classifier
    assert capsys.readouterr().err == ""


def test_a_precision_that_lightning_lacks_is_refused() -> None:
    assert load_config(["trainer.precision=bf16-mixed"]).trainer.precision == "bf16-mixed"
    assert load_config([]).trainer.precision == "32-true"
    with pytest.raises(
        InputError, match=r"trainer\.precision must be one of 32-true, 16-mixed, bf16-mixed, got 'half'"
    ):
        load_config(["trainer.precision=half"])
