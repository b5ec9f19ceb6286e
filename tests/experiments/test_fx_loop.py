"""Int8 models of torch.ao's FX graph mode through a whole run: searched, repaired in place, judged, continued."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from torch import nn

from dflare.errors import InputError
from dflare.models.kernels import any_kernel
from dflare.models.torchscript import open_torchscript, same_code
from repair.fx_models.artifact import open_scripted

pytestmark = pytest.mark.skipif(
    "x86" not in torch.backends.quantized.supported_engines, reason="this machine has no engine for quantised layers"
)


@pytest.fixture
def quantised(toys: Any, tmp_path: Path) -> Path:
    """The toys' pruned model in int8, a TorchScript program."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    weight, bias = (tensor.detach().clone() for tensor in torch.export.load(toys.model("pruned")).state_dict.values())
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight[0].numel(), len(weight)))
    model.load_state_dict({"1.weight": weight.reshape(len(weight), -1), "1.bias": bias})
    shown = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad(), any_kernel():
        warnings.simplefilter("ignore")  # torch deprecates every call
        prepared = prepare_fx(model.eval(), get_default_qconfig_mapping("x86"), (shown[:2],))
        prepared(shown)
        torch.jit.script(convert_fx(prepared)).save(str(tmp_path / "int8.pt"))
    return tmp_path / "int8.pt"


@pytest.mark.slow
def test_a_program_is_repaired_in_place_and_stays_the_program_it_was(
    toys: Any, dflare: Callable[..., Any], quantised: Path, tmp_path: Path
):
    settings = toys.settings(tmp_path / "run", pair__compressed=quantised, loop__rounds=2)
    answer = dflare("loop", "--allow-code", *settings)
    assert answer.code in (0, 1), answer.err
    repaired = tmp_path / "run" / "round-00" / "model" / "model.pt"
    assert same_code(quantised, repaired)
    assert repaired.read_bytes() != quantised.read_bytes()
    assert (tmp_path / "run" / "round-00" / "noop" / "model.pt").read_bytes() == quantised.read_bytes()
    first = json.loads((tmp_path / "run" / "report.json").read_text())["rounds"][0]
    assert first["repair"]["efficacy"]["value"] > 0.3
    open_scripted(quantised, allow_code=True).check(repaired)
    assert dflare("loop", *settings).code == 2  # without leave nothing is opened
    with pytest.raises(InputError, match="code in a run folder"):
        open_torchscript(repaired, allow_code=True)


def test_a_program_in_a_run_folder_is_opened_only_with_the_code_that_was_named(quantised: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "environment.json"):
        (run / name).touch()
    shutil.copy(quantised, run / "same.pt")
    open_torchscript(run / "same.pt", allow_code=True, program=quantised)
    with ZipFile(quantised) as archive, ZipFile(run / "other.pt", "w") as other:
        for name in archive.namelist():
            changed = b"\n# more" if name.endswith(".py") else b""
            other.writestr(name, archive.read(name) + changed)
    shutil.copy(quantised, run / "twice.pt")
    with ZipFile(run / "twice.pt", "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the name that is there twice, which is the attack
        code = next(name for name in archive.namelist() if name.endswith(".py"))
        archive.writestr(code, archive.read(code))
    for name in ("other.pt", "twice.pt"):
        with pytest.raises(InputError, match="code in a run folder"):
            open_torchscript(run / name, allow_code=True, program=quantised)
    with pytest.raises(InputError, match="code in a run folder"):  # a file of the folder vouches for none
        open_torchscript(run / "same.pt", allow_code=True, program=run / "same.pt")
