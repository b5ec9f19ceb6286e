"""dflare <- repair <- experiments: nothing imports upwards, and what answers at once imports no model code."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("dflare", "repair", "experiments")
LIGHT = ("config", "settings", "main", "catalogue", "zoo", "gate", "files", "environment", "runfolder")
LIGHT += tuple(path.stem for path in sorted((ROOT / "experiments").glob("report*.py")))
HEAVY = {"torch", "torchvision", "pytorch_lightning", "onnx", "onnxruntime", "sklearn", "scipy", "tensorboard"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import in a file, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively, which hides its layer"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)


@pytest.mark.parametrize("depth", range(len(LAYERS)), ids=LAYERS)
def test_no_layer_imports_one_above_it(depth: int) -> None:
    files = sorted((ROOT / LAYERS[depth]).rglob("*.py"))
    assert files
    above = LAYERS[depth + 1 :]
    for path in files:
        for line, name in imports(path):
            assert name.split(".")[0] not in above, f"{path}:{line} imports {name}, which is built on {LAYERS[depth]}"


def test_a_wrong_layer_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("def late():\n    from repair.fit import fit\n")
    assert list(imports(tmp_path / "wrong.py")) == [(2, "repair.fit")]


@pytest.mark.parametrize("name", LIGHT)
def test_what_answers_at_once_imports_no_model_code(name: str) -> None:
    for node in ast.parse((ROOT / "experiments" / f"{name}.py").read_text(encoding="utf-8")).body:
        for line, module in _at_import_time(node):
            assert module.split(".")[0] not in HEAVY, f"experiments/{name}.py:{line} imports {module} when imported"


def test_importing_all_of_it_loads_none_either() -> None:
    names = ", ".join(f"experiments.{name}" for name in LIGHT)
    code = f"import sys, {names}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def _at_import_time(node: ast.stmt) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.ImportFrom):
        yield node.lineno, node.module or ""
    elif isinstance(node, ast.Import):
        yield from ((node.lineno, name.name) for name in node.names)
