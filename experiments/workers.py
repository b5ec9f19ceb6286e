"""Which worker of how many this process is, read from its environment; importing this imports no model code."""

import os
import sys
from dataclasses import dataclass

from dflare.errors import InputError
from experiments.config import TrainerSettings

LED = "DFLARE_LED"
"""Set in the environment of a worker that another one started."""


class LostWorker(Exception):  # noqa: N818  (an ending, not an error)
    """A worker is gone; what it wrote is kept, and running again continues."""


@dataclass(frozen=True)
class Place:
    """One worker among the `world` of a run, in the words of torch.distributed."""

    rank: int = 0  # in [0, world); 0 leads
    world: int = 1
    here: int = 1  # workers on this node
    started: bool = False  # whether torchrun or srun start all workers; otherwise the first on each node does

    @property
    def owns_all(self) -> bool:
        """Whether one worker starts all others."""
        return not self.started and self.here == self.world

    @property
    def starts_others(self) -> bool:
        """Whether this worker is the one that starts the others on its node."""
        return not self.started and self.here > 1 and self.rank % self.here == 0


def find_place(trainer: TrainerSettings) -> Place:
    """Where this process stands, from the settings and what torchrun, srun or its leader put into the environment.

    Raises `InputError` where the settings ask for other workers than were started.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _of_torchrun(trainer)
    world = trainer.devices * trainer.num_nodes
    if world == 1:
        return Place()
    if _number("SLURM_NTASKS", 1) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return _of_slurm(trainer)
    rank = _number("NODE_RANK", 0) * trainer.devices + _number("LOCAL_RANK", 0)
    if rank >= world:
        raise InputError(f"NODE_RANK and LOCAL_RANK must name one of {world} workers, got number {rank}")
    return Place(rank, world, trainer.devices)


def may_lead() -> bool:
    """Whether this may be the first worker, before the settings are known: what is wrong with them is said once."""
    return not any(_number(name, 0) for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def leave(code: int, place: Place) -> int:
    """The exit code; ends the process here where it could otherwise wait for workers that others started."""
    if place.world > 1 and not place.owns_all:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _of_torchrun(trainer: TrainerSettings) -> Place:
    rank, world, here = (_number(name, 1) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if (trainer.devices, trainer.num_nodes) not in ((1, 1), (here, world // here)) or world % here:
        raise InputError(
            f"torchrun started {here} workers on this node and {world} in all, but trainer.devices={trainer.devices} "
            f"and trainer.num_nodes={trainer.num_nodes}; leave these two out"
        )
    return Place(rank, world, here, started=True)


def _of_slurm(trainer: TrainerSettings) -> Place:
    world, tasks = _number("SLURM_NTASKS", 1), _number("SLURM_NTASKS_PER_NODE", trainer.devices)
    if world != trainer.devices * trainer.num_nodes or tasks != trainer.devices:
        raise InputError(
            f"SLURM runs {world} tasks, {tasks} on a node, but trainer.devices={trainer.devices} and "
            f"trainer.num_nodes={trainer.num_nodes}; they must be --ntasks-per-node and --nodes"
        )
    return Place(_number("SLURM_PROCID", 0), world, trainer.devices, started=True)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default
