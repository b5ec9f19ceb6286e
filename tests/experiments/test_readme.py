"""The README lists what is there, and its two lines are single lines."""

import re
from pathlib import Path

import pytest

from dflare.strategies import STRATEGIES
from experiments.main import main
from experiments.settings import shipped_configs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(header: str) -> list[str]:
    """The first cells of the table whose header begins so."""
    table = README.split(f"| {header} |", 1)[1].split("\n\n", 1)[0]
    return [line.split("|")[1] for line in table.splitlines()[2:]]


def test_the_first_two_shell_blocks_are_single_lines_that_set_up_and_run():
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    assert [block.count("\n") for block in blocks[:2]] == [1, 1]
    assert blocks[0].strip().endswith("dflare loop")
    assert blocks[1].strip().endswith("pytest")


def test_every_strategy_has_a_row():
    assert [re.findall("`(.*?)`", cell) for cell in rows("strategy")] == [[name] for name in STRATEGIES]


def test_every_shipped_configuration_is_listed():
    assert sorted(name for cell in rows("configuration") for name in re.findall("`(.*?)`", cell)) == [
        *shipped_configs()
    ]


def test_every_verb_has_a_row_and_no_other_verb_is_offered(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    offered = re.findall(r"^    (\w+)(?: {2,}|$)", capsys.readouterr().out, flags=re.MULTILINE)
    listed = [name for cell in rows("verb") for name in re.findall("`dflare (.*?)`", cell)]
    assert listed == [name for name in offered if name != "dflare"]


def test_relative_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_no_file_names_a_registry_or_a_home_folder():
    tracked = [p for p in ROOT.rglob("*") if p.suffix in {".md", ".toml", ".txt", ".yaml", ".py", ".json"}]
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "download.py" + "torch.org", "/ro" + "ot/")
    for path in tracked:
        if not {".venv", "runs", ".git"} & set(path.parts):
            text = path.read_text(encoding="utf-8")
            assert not any(host in text for host in hosts), path
