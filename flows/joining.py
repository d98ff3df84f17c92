"""What a Dask worker is given when it joins a cluster in the middle of a run, or comes back after it died.

Apart from the runner, as Dask takes a second to import.
"""

from collections.abc import Mapping

from distributed import Worker, WorkerPlugin

from flows.credentials import hold


class Secrets(WorkerPlugin):
    """The secrets of the flow's process, for every worker as it starts; the scheduler keeps them in memory.

    Args:
        run: Id of the flow run that they are for.
        secrets: By the name of their variable.
    """

    def __init__(self, run: str, secrets: Mapping[str, str]) -> None:
        self.name = f"samuel-secrets-{run}"
        self._secrets = dict(secrets)

    def setup(self, worker: Worker) -> None:
        """Dask calls it in the worker's process."""
        del worker
        hold(self._secrets)
