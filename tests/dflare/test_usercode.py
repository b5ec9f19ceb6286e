"""A user's own `module:function`: what becomes of what it returns, and that it runs only where that is allowed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dflare.classifiers import ModelPair
from dflare.errors import InputError
from dflare.models.answers import scores_in
from dflare.models.interface import Takes
from dflare.models.origins import in_run_folder, is_reference
from dflare.models.shown import Shown
from dflare.models.usercode import UserModel, call_reference

MODULE = """
from collections import namedtuple
from pathlib import Path
import torch
from torch import nn
from dflare.models.interface import Takes

Path(__file__).with_name("imported").touch()

def network():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)).train()

def taking():
    module = network()
    module.takes = Takes(channels=1, height=4, width=4)
    return module

def taking_nonsense():
    module = network()
    module.takes = "images"
    return module

def callable_model():
    return lambda values: values.flatten(1)[:, :3]

def arrays():
    return lambda values: values.flatten(1)[:, :3].numpy()

def lazy():
    return nn.LazyLinear(3)

def meta():
    return nn.Linear(3, 3, device="meta")

def raises():
    raise OSError("no such disk\\nat all")

def leaves():
    raise SystemExit(3)

def needs(argument):
    return argument

def broken():
    return lambda values: values @ torch.zeros(7, 7)

def text():
    return "a model"

def of_a_sibling():
    import sibling_of_models
    return sibling_of_models.network()

number = 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file `models_of_a_user.py` in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models_of_a_user.py").write_text(MODULE)
    (tmp_path / "sibling_of_models.py").write_text("from models_of_a_user import network")
    yield tmp_path / "models_of_a_user.py"
    for name in [
        name for name in sys.modules if name.split(".")[0] in ("models_of_a_user", "sibling_of_models", "pack")
    ]:
        del sys.modules[name]


def make_run(folder: Path) -> None:
    (folder / "config.yaml").touch()
    (folder / "environment.json").touch()


# --- names ---


@pytest.mark.parametrize("text", ["module:function", "a.b_c.d1:make", "größe:netz"])
def test_a_module_and_a_function_are_a_reference(text):
    assert is_reference(text)


@pytest.mark.parametrize(
    "text",
    ["model.onnx", "folder/model.pt", "a:b:c", ":b", "a:", "a.:b", ".a:b", "a:b.c", "C:/m.onnx", "a b:c", "1:2", ""],
)
def test_file_names_are_none(text):
    assert not is_reference(text)


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_reference("a:b")
    (tmp_path / "a:b").touch()
    assert not is_reference("a:b")


# --- what opens ---


def test_a_network_answers_in_evaluation_mode_without_gradients_of_its_own(module):
    model = call_reference("models_of_a_user:network", None, True)
    assert isinstance(model.model, nn.Module)
    assert not model.model.training
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert model.takes == Takes()
    values = torch.rand(5, 1, 4, 4, requires_grad=True)
    answers = model(values)
    assert answers.shape == (5, 3)
    assert torch.equal(answers, model(values))
    assert torch.autograd.grad(answers.sum(), values)[0].abs().sum() > 0


def test_a_network_may_say_what_it_takes(module):
    assert call_reference("models_of_a_user:taking", None, True).takes == Takes(channels=1, height=4, width=4)
    with pytest.raises(
        InputError, match=r"takes of the network of .*nonsense must be a dflare\.models\.interface\.Takes, got a s"
    ):
        call_reference("models_of_a_user:taking_nonsense", None, True)


@pytest.mark.parametrize("function", ["callable_model", "arrays"])
def test_any_callable_is_a_model(module, function):
    model = call_reference(f"models_of_a_user:{function}", None, True)
    images = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8)
    outputs = ModelPair(Shown(model), Shown(lambda values: values.flatten(1)[:, :3]))(images)
    assert torch.equal(outputs.original, outputs.compressed)


def test_weights_are_read_into_the_network(module):
    state = call_reference("models_of_a_user:network", None, True).model.state_dict()
    torch.save({"module." + name: tensor + 1 for name, tensor in state.items()}, "w.pt")
    loaded = call_reference("models_of_a_user:network", Path("w.pt"), True).model.state_dict()
    assert all(torch.equal(loaded[name], tensor + 1) for name, tensor in state.items())


def test_first_weights_are_the_same_in_every_process_and_take_no_draws(module):
    before = torch.get_rng_state()
    first, second = (call_reference("models_of_a_user:network", None, True).model for _ in range(2))
    assert first is not second
    assert torch.equal(first.state_dict()["2.weight"], second.state_dict()["2.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_current_folder_is_searched_for_the_import_only(module):
    before = list(sys.path)
    call_reference("models_of_a_user:of_a_sibling", None, True)
    with pytest.raises(InputError):
        call_reference("models_of_a_user:raises", None, True)
    assert sys.path == before


def test_a_module_in_a_package_is_found(module):
    (module.parent / "pack").mkdir()
    (module.parent / "pack" / "__init__.py").touch()
    (module.parent / "pack" / "nets.py").write_text(MODULE)
    assert call_reference("pack.nets:network", None, True)(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


# --- what is refused ---

REFUSALS: dict[str, str] = {
    "no_such_module:network": r"^expected a module no_such_module for no_such_module:network in .* or installed, found",
    "models_of_a_user.deeper:network": r"^expected a module models_of_a_user\.deeper for .*, found none",
    "models_of_a_user:gone": r"^expected a function gone for .* in .*models_of_a_user\.py, found none$",
    "models_of_a_user:number": r"^models_of_a_user:number must be a function without arguments, got a int$",
    "models_of_a_user:raises": r"^models_of_a_user:raises, called without arguments, raised OSError: no such disk$",
    "models_of_a_user:leaves": r"called without arguments, raised SystemExit: 3$",
    "models_of_a_user:needs": r"called without arguments, raised TypeError: needs\(\) missing 1 required positional",
    "models_of_a_user:text": r"must return a network \(nn\.Module\) or a callable, it returned a str$",
    "models_of_a_user:lazy": r"must have all its parameters, some are lazy or on the meta device$",
    "models_of_a_user:meta": r"must have all its parameters, some are lazy or on the meta device$",
    "models_of_a_user": r"^a model in Python must be named package\.module:function, got 'models_of_a_user'$",
}


@pytest.mark.parametrize("text", REFUSALS)
def test_what_is_no_model_is_refused_in_one_sentence(module, text):
    with pytest.raises(InputError, match=REFUSALS[text]) as caught:
        call_reference(text, None, True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["import no_such_package_at_all", "1 / 0", "def (", "raise SystemExit"])
def test_a_module_that_cannot_be_imported_says_why(module, code):
    module.write_text(code)
    with pytest.raises(
        InputError, match="the module models_of_a_user of models_of_a_user:network cannot be imported: "
    ):
        call_reference("models_of_a_user:network", None, True)


def test_weights_need_a_network(module):
    with pytest.raises(InputError, match=r"returned a function, no nn\.Module, and takes no weights from w\.pt"):
        call_reference("models_of_a_user:callable_model", Path("w.pt"), True)


def test_a_model_that_cannot_answer_says_for_which_shape(module):
    model = call_reference("models_of_a_user:broken", None, True)
    with pytest.raises(
        InputError, match=r"of models_of_a_user:broken cannot answer values of shape \(2, 1, 4, 4\): Runt"
    ):
        model(torch.zeros(2, 1, 4, 4))


def test_an_input_error_of_the_model_is_passed_on():
    def refuse(values: Tensor) -> Tensor:
        raise InputError("as it is")

    with pytest.raises(InputError, match=r"^as it is$"):
        UserModel(refuse, "the model")(torch.zeros(1))


# --- where code may run ---


def test_without_the_flag_nothing_is_imported(module):
    with pytest.raises(InputError, match=r"^models_of_a_user:network is code, which runs only with --allow-code$"):
        call_reference("models_of_a_user:network", None, False)
    assert "models_of_a_user" not in sys.modules
    assert not module.with_name("imported").exists()


def test_code_in_a_run_folder_is_never_imported(module, monkeypatch):
    make_run(module.parent)
    with pytest.raises(InputError, match=r"is looked for in .*, a run folder, from where code is never run; leave it"):
        call_reference("models_of_a_user:network", None, True)
    (module.parent.parent / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(module.parent.parent / "elsewhere")
    monkeypatch.syspath_prepend(str(module.parent))
    with pytest.raises(
        InputError, match=r"is code in a run folder \(.*models_of_a_user\.py\), from where code is never"
    ):
        call_reference("models_of_a_user:network", None, True)
    assert not module.with_name("imported").exists()


@pytest.mark.parametrize("where", ["package", "namespace", "link"])
def test_ways_round_that_are_seen(module, where):
    run = module.parent / "run"
    run.mkdir()
    make_run(run)
    (run / "inner.py").write_text(MODULE)
    here = module.parent
    if where == "link":
        (here / "pack.py").symlink_to(run / "inner.py")
    else:
        (here / "pack").symlink_to(run)
    if where == "package":
        (run / "__init__.py").write_text(MODULE)
    with pytest.raises(InputError, match="is code in a run folder"):
        call_reference("pack:network" if where == "link" else "pack.inner:network", None, True)
    assert not (run / "imported").exists()
    assert not (here / "imported").exists()


def test_a_run_folder_is_one_with_both_its_files(tmp_path, monkeypatch):
    deep = tmp_path / "run" / "round-00" / "model"
    deep.mkdir(parents=True)
    assert not in_run_folder(deep / "m.pt")
    (tmp_path / "run" / "config.yaml").touch()
    assert not in_run_folder(deep / "m.pt")
    (tmp_path / "run" / "environment.json").touch()
    for path in (deep / "m.pt", deep, tmp_path / "run", deep / "gone" / "m.pt"):
        assert in_run_folder(path)
    for path in (tmp_path / "m.pt", tmp_path, deep / ".." / ".." / ".." / "m.pt"):
        assert not in_run_folder(path)
    (deep / "m.pt").touch()
    (tmp_path / "into").symlink_to(deep / "m.pt")
    assert in_run_folder(tmp_path / "into")
    (tmp_path / "outside.pt").touch()
    (deep / "out").symlink_to(tmp_path / "outside.pt")
    assert in_run_folder(deep / "out")
    monkeypatch.chdir(deep)
    assert in_run_folder(Path("m.pt"))


# --- answers ---


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.loss, self.logits = None, logits


SCORES = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
ANSWERS: dict[str, object] = {
    "tensor": SCORES,
    "array": SCORES.numpy(),
    "tuple": (SCORES, torch.zeros(2, 9)),
    "list": [None, SCORES],
    "dictionary": {"scores": SCORES, "features": torch.zeros(2, 9)},
    "named logits": {"features": torch.zeros(2, 9), "logits": SCORES},
    "object": Output(SCORES),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_scores_are_found_in_what_networks_return(kind):
    assert torch.equal(scores_in(ANSWERS[kind], 2, "it"), SCORES)


@pytest.mark.parametrize("answer", [None, "text", 5.0, (), {}, [1, 2], {"logits": "none"}])
def test_an_answer_without_scores_is_refused(answer):
    with pytest.raises(InputError, match=rf"^it must return a tensor of scores, .*; got a {type(answer).__name__}$"):
        scores_in(answer, 2, "it")


@pytest.mark.parametrize("answer", [torch.tensor(1.0), SCORES[:1], SCORES.T.flatten()])
def test_an_answer_needs_one_row_an_image(answer):
    with pytest.raises(
        InputError, match=r"^it must return one row of scores an image, \(2, classes\) for 2 images, got"
    ):
        scores_in(answer, 2, "it")
