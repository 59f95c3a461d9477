"""Book-keeping of the CPUs, the memory and the GPUs that running tasks hold."""

import asyncio
import math
from collections.abc import Sequence

import attrs

from .demand import Demand

__all__ = ["Ledger"]


@attrs.define
class _Free:
    """What nobody holds."""

    tasks: float
    cpus: int
    memory_gb: float
    places: dict[str, int]

    def take(self, demand: Demand) -> tuple[str, ...] | None:
        """Take what a task needs; the GPUs it got, or None if that was more than there was."""
        gpus = self._choose(demand)
        enough = self.tasks >= 1 and self.cpus >= demand.cpus
        enough = enough and self.memory_gb >= demand.memory_gb
        self.move(demand, gpus, -1)
        return gpus if enough and len(gpus) == demand.gpus else None

    def move(self, demand: Demand, gpus: Sequence[str], sign: int) -> None:
        """Give back what a task held, or with ``sign`` -1 take it."""
        self.tasks += sign
        self.cpus += sign * demand.cpus
        self.memory_gb += sign * demand.memory_gb
        for gpu in gpus:
            self.places[gpu] += sign

    def _choose(self, demand: Demand) -> tuple[str, ...]:
        names = list(self.places)
        if demand.gpu is not None:
            names = names[demand.gpu : demand.gpu + 1]
        free = [name for name in names if self.places[name] > 0]
        return tuple(sorted(free, key=lambda name: -self.places[name])[: demand.gpus])


class Ledger:
    """Grants tasks what they need, in the order in which they ask.

    A task that has to wait keeps what it could have so far, so that small ones do not overtake it
    for ever; they may take what it has no use for.

    Parameters
    ----------
    cpus : int
        CPUs in all.
    memory_gb : float, optional
        Memory in all, GB; no limit by default.
    gpus : sequence of str
        GPUs.
    tasks_per_gpu : int
        Tasks that may share a GPU.
    max_tasks : int, optional
        Tasks that may run at a time; no limit by default.
    """

    def __init__(
        self,
        cpus: int,
        memory_gb: float | None = None,
        gpus: Sequence[str] = (),
        tasks_per_gpu: int = 1,
        max_tasks: int | None = None,
    ) -> None:
        self._all = _Free(
            math.inf if max_tasks is None else max_tasks,
            cpus,
            math.inf if memory_gb is None else memory_gb,
            dict.fromkeys(gpus, tasks_per_gpu),
        )
        self._free = self._copy(self._all)
        self._waiting: list[tuple[Demand, asyncio.Future[tuple[str, ...]]]] = []

    @staticmethod
    def _copy(free: _Free) -> _Free:
        return attrs.evolve(free, places=dict(free.places))

    def capped(self, demand: Demand) -> Demand:
        """Cut a demand down to all there is; a task that wants more runs alone."""
        gpus = min(demand.gpus, len(self._all.places))
        gpu = demand.gpu if gpus and (demand.gpu or 0) < len(self._all.places) else None
        return Demand(
            cpus=min(demand.cpus, self._all.cpus),
            memory_gb=min(demand.memory_gb, self._all.memory_gb),
            # A GPU that is not there: the task itself says so, clearly.
            gpus=0 if gpu is None and demand.gpu is not None else gpus,
            gpu=gpu,
        )

    async def take(self, demand: Demand) -> tuple[str, ...]:
        """Wait until a task may run.

        Parameters
        ----------
        demand : Demand
            What it needs, no more than :meth:`capped` leaves of it.

        Returns
        -------
        tuple of str
            Its GPUs.
        """
        granted: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self._waiting.append((demand, granted))
        self._admit()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give(demand, granted.result())
            else:
                self._waiting = [one for one in self._waiting if one[1] is not granted]
                self._admit()
            raise

    def give(self, demand: Demand, gpus: Sequence[str]) -> None:
        """Take back what a task held."""
        self._free.move(demand, gpus, 1)
        self._admit()

    def _admit(self) -> None:
        left = self._copy(self._free)
        for one in list(self._waiting):
            demand, granted = one
            if granted.done():
                self._waiting.remove(one)
                continue
            gpus = left.take(demand)
            if gpus is None:
                continue
            self._free.move(demand, gpus, -1)
            self._waiting.remove(one)
            granted.set_result(gpus)
