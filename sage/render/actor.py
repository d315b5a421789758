"""A worker as an actor of Ray; its process begins by importing this module."""

from typing import Any

import numpy as np

from sage.imports import many_imports

with many_imports():  # an actor starts in two thirds of the time
    from sage.render.pieces import IN_VAIN
    from sage.render.work import DIED, DamagedError, Unit, failed
    from sage.render.worker import OutOfMemory, Recipe, Worker


class Actor:
    """A worker as Ray Data wants it; it tells a register what it begins."""

    def __init__(self, recipe: Recipe, device: str, register: Any) -> None:
        """Takes what a `Worker` takes, and the `Register` as an actor of Ray.

        Raises:
            OutOfMemory: If actors died of loading, again and again.
        """
        import ray

        self.register, self.get = register, ray.get
        context = ray.get_runtime_context()
        self.node = context.get_node_id()
        if not self.get(register.may_load.remote(context.get_actor_id(), self.node)):
            raise OutOfMemory(IN_VAIN)
        self.worker = Worker(recipe, device)  # Ray shows an actor its own GPU only, as cuda:0
        self.get(register.loaded.remote())

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Messages of what was rendered, for a column of messages of units."""
        answers = np.empty(len(batch["unit"]), object)
        for n, message in enumerate(batch["unit"]):
            answers[n] = self._answer(bytes(message))
        return {"pictures": answers}

    def _answer(self, message: bytes) -> bytes:
        """As `Worker.answer`; of a unit that has ended too many actors, that it is lost."""
        try:
            unit = Unit.from_bytes(message)
        except DamagedError:
            return self.worker.answer(message)
        if not self.get(self.register.may_begin.remote(unit.number, self.node)):
            return failed(unit, DIED).to_bytes()
        answer = self.worker.answer(message)
        self.get(self.register.ended.remote(unit.number))
        return answer
