"""An ablation is run: every cell in a process and a run folder of its own, what is finished is kept."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from dflare.errors import InputError
from experiments.ablation_config import AblationConfig, check_ablation
from experiments.ablation_grid import Cell, Grid, make_grid
from experiments.ablation_report import write_ablation
from experiments.ablation_results import read_run
from experiments.config import Config
from experiments.files import read_json, write_atomic
from experiments.opening import ALLOW_CODE
from experiments.settings import check_ranges, complete, read_settings, settings_of, to_yaml
from experiments.terminal import say

TOLD = 500
"""Characters of what a failed run said that are passed on."""

Done = Mapping[str, Any]
"""One finished run: arm, block, seed, folder, and its figures by name."""


def load_ablation(arguments: list[str]) -> AblationConfig:
    """The settings of an ablation from files and `key=value` arguments; raises `InputError` as `load_config` does."""
    shipped = shipped_ablations()
    known = [str(shipped.get(one, one)) if not Path(one).is_file() else one for one in arguments]
    settings = read_settings(AblationConfig, known)
    check_ablation(settings)
    for cell in make_grid(settings).cells:
        _check(cell)
    if settings.run_dir is None:
        settings.run_dir = "runs/ablation"
    if "=" in settings.run_dir:
        raise InputError(f"run_dir of an ablation must be a path without =, got {settings.run_dir}")
    return settings


def shipped_ablations() -> dict[str, Path]:
    """The ablations that come with the package, by name."""
    folder = Path(str(files("configs"))) / "ablations"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def ablate(settings: AblationConfig, allow_code: bool = False) -> str:
    """Run what is missing of all cells and write the tables; what is said of it.

    A cell that was stopped goes on where its run folder stands; tables hold what is done, also after an interruption.
    Raises `InputError` where another process works in the folder, and where a run refuses its settings or breaks: the
    cells that are done stay.
    """
    assert settings.run_dir is not None
    grid, folder = make_grid(settings), Path(settings.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            write_atomic(folder / "config.yaml", to_yaml(settings))
            _run_all(settings, grid, folder, allow_code)
    except Timeout as error:
        raise InputError(f"another process works in {folder}; wait for it, or give another run_dir") from error
    return f"{len(grid.cells)} runs are done and compared: {folder / 'ablation.md'}"


def _run_all(settings: AblationConfig, grid: Grid, folder: Path, allow_code: bool) -> None:
    done: dict[str, Done] = {}
    for cell in grid.cells:
        if (known := _figures_file(folder, cell)).exists():
            done[cell.name] = read_json(known)
    missing = [cell for cell in grid.cells if cell.name not in done]
    running = _Running(folder, settings.ablate.verb, allow_code)
    with ThreadPoolExecutor(settings.ablate.jobs) as pool:
        try:
            for number, (cell, found) in enumerate(_finished(pool, missing, running), len(done) + 1):
                done[cell.name] = found
                say(f"{number} of {len(grid.cells)} runs: {cell.name}")
        except BaseException:
            running.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            there = [done[cell.name] for cell in grid.cells if cell.name in done]
            write_ablation(folder, grid, there, settings.ablate.verb)


def _finished(pool: ThreadPoolExecutor, cells: list[Cell], run: Callable[[Cell], Done]) -> Iterator[tuple[Cell, Done]]:
    """The runs as they end; the first that fails raises."""
    running: dict[Future[Done], Cell] = {pool.submit(run, cell): cell for cell in cells}
    while running:
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in ended:
            yield running.pop(future), future.result()


class _Running:
    """Runs cells in processes, which it can stop all at once."""

    def __init__(self, folder: Path, verb: str, allow_code: bool) -> None:
        self.folder, self.verb, self.allow_code = folder, verb, allow_code
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._stopped = False

    def __call__(self, cell: Cell) -> Done:
        run_dir = self.folder / "runs" / cell.name
        config = self.folder / "configs" / f"{cell.name}.yaml"
        write_atomic(config, OmegaConf.to_yaml(OmegaConf.create(dict(cell.settings))))
        command = [sys.executable, "-m", "experiments.main", self.verb, str(config), f"run_dir={run_dir}"]
        command += [*code_arguments(cell, self.allow_code)]
        if self._stopped:
            raise KeyboardInterrupt
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._processes[cell.name] = process
        _, said = process.communicate()
        del self._processes[cell.name]
        if process.returncode == 130 or self._stopped:
            raise KeyboardInterrupt
        if process.returncode not in (0, 1):
            reason = " ".join(said.split())[-TOLD:].removeprefix("dflare: error: ")
            raise InputError(f"the run {cell.name} of the ablation ended with {process.returncode}: {reason}")
        found = read_run(cell, run_dir, self.verb)
        write_atomic(_figures_file(self.folder, cell), json.dumps(found) + "\n")
        return found

    def stop(self) -> None:
        """Interrupt all processes, as Ctrl-C does, so that they can be continued."""
        self._stopped = True
        for process in list(self._processes.values()):
            process.send_signal(signal.SIGINT)


def _figures_file(folder: Path, cell: Cell) -> Path:
    """Where the figures of a finished run are kept."""
    return folder / "figures" / f"{cell.name}.json"


def code_arguments(cell: Cell, allow_code: bool) -> list[str]:
    """What a run must be given as arguments, because no file may say it: code to be loaded."""
    if not allow_code:
        return []
    pair = cell.settings["pair"]
    return [ALLOW_CODE, *(f"pair.{which}={pair[which]}" for which in ("original", "compressed") if pair[which])]


def _check(cell: Cell) -> None:
    """Raise `InputError` for settings that the run would refuse, before any run starts."""
    from dflare.strategies import find_strategy
    from repair.outputs.recipes import recipe_parts

    settings = settings_of(Config, cell.settings, f"the arm {cell.arm} of the ablation")
    check_ranges(settings)
    complete(settings)
    find_strategy(settings.search.strategy)
    recipe_parts(settings.repair.recipe)
