"""Jobs over the machines of a Ray cluster (`--ray`): each worker tunes its share of them in shared batches.

`worker.py` is what one process does, `deal.py` who has which job, `run.py` the driver, `connect.py` the cluster.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from softprompt.cluster.connect import joined
from softprompt.cluster.run import Cluster
from softprompt.errors import BadInput
from softprompt.jobs import RunJobs, run_jobs


@contextmanager
def runner(ray: str | None, workers: int | None, say: Callable[[str], None]) -> Iterator[RunJobs]:
    """What runs jobs: this process, or `workers` of the cluster at the address `ray` (softprompt.cluster.connect)."""
    if ray is None:
        if workers is not None:
            raise BadInput(f"--workers {workers}: expected --ray beside it; without, this process does all the work.")
        yield run_jobs
        return
    with joined(ray) as module, closing(Cluster(module, workers, say)) as cluster:
        yield cluster
