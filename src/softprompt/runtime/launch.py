"""Which process of a run this one is, as its launcher says; light, because every command asks."""

import os
from typing import NamedTuple

from softprompt.errors import BadInput

# What a launcher sets in each process that it starts. A bare WORLD_SIZE is not enough: clusters set it in every shell.
STARTED = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


class ProcessRank(NamedTuple):
    """A process among those of its run."""

    rank: int
    local_rank: int
    """Rank on its machine."""
    processes: int


def place() -> ProcessRank:
    """Return where this process stands; the first of one without a launcher."""
    if not any(name in os.environ for name in STARTED):
        return ProcessRank(0, 0, 1)
    from accelerate.utils.environment import get_cpu_distributed_information

    found = get_cpu_distributed_information()
    return ProcessRank(found.rank, found.local_rank, found.world_size)


def check_single_process(verb: str) -> None:
    """Raise BadInput where a launcher has started several processes of a verb that they cannot share."""
    if place().processes > 1:
        raise BadInput(f"{verb} runs in one process; only train is shared by several. Start it without a launcher.")
