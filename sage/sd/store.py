"""Keeps the states of earlier runs, so that a run which begins like one of them goes on from it.

What a trajectory is after a step depends on the run's inputs and on which rows were alive up to
there, and on nothing that comes later. So a trunk does not depend on its branch point: moving the
branch point re-runs the branches only. Bounded; what was least recently used goes first.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from threading import Lock

import torch
from torch import Tensor

from sage.core.plan import Plan
from sage.core.sampling import State

Key = tuple[Hashable, ...]


def history(plan: Plan, step: int, branch_inputs: Hashable = None) -> Key:
    """The rows of every step up to one, as a key: equal for plans that begin alike.

    Args:
        plan: The plan.
        step: The last step of the history.
        branch_inputs: What the state depends on as well once any row has branched.
    """
    splits = [s for s in range(step + 1) if plan.splits_at(s)]
    branched = any(any(plan.branching(s)) for s in splits)
    return (*((s, plan.rows(s)) for s in splits), step, branch_inputs if branched else None)


class StateStore:
    """States of runs by their inputs and the history of their rows; safe between threads.

    Args:
        max_bytes: Room for latents and solver memory, in bytes.

    Raises:
        ValueError: If that is no number from 0.
    """

    def __init__(self, max_bytes: int = 256 * 2**20) -> None:
        real = isinstance(max_bytes, (int, float)) and not isinstance(max_bytes, bool)
        if not real or not max_bytes >= 0:
            raise ValueError(f"max_bytes is {max_bytes!r}; allowed are numbers from 0.")
        self.max_bytes = max_bytes
        self._states: OrderedDict[Key, State] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[type["StateStore"], tuple[float]]:
        """A copy, here or in another process, begins empty: keys name objects of this process."""
        return type(self), (self.max_bytes,)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def used_bytes(self) -> int:
        """Bytes of all kept states."""
        return self._bytes

    def add(
        self, inputs: Hashable, plan: Plan, state: State, branch_inputs: Hashable = None
    ) -> None:
        """Keeps the state of a run after a step; `branch_inputs` matter once rows branch."""
        key, size = (inputs, *history(plan, state.step, branch_inputs)), _bytes(state)
        with self._lock:
            if key in self._states or size > self.max_bytes:
                return
            self._states[key] = state
            self._bytes += size
            while self._bytes > self.max_bytes:
                _, oldest = self._states.popitem(last=False)
                self._bytes -= _bytes(oldest)

    def latest(self, inputs: Hashable, plan: Plan, branch_inputs: Hashable = None) -> State | None:
        """The furthest state from which a plan can go on, or None."""
        with self._lock:
            for step in reversed(range(plan.steps)):
                key = (inputs, *history(plan, step, branch_inputs))
                if key in self._states:
                    self._states.move_to_end(key)
                    return self._states[key]
        return None

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._states.clear()
            self._bytes = 0


class Draft:
    """The states of a run that is under way, kept apart until they are known to be good.

    Each state is checked when it is added, by a flag that stays on the device; the flags are read
    once, when the states are published. A run that fails publishes nothing, nor does one whose
    inputs have changed since it began.

    Args:
        store: Where they go.
        inputs: What a state depends on, read anew: as for `StateStore.add`.
        plan: The run's plan.
        branch_inputs: As for `StateStore.add`.
    """

    def __init__(
        self,
        store: StateStore,
        inputs: Callable[[], Hashable],
        plan: Plan,
        branch_inputs: Hashable = None,
    ) -> None:
        self.store = store
        self._read_inputs = inputs
        self._where = inputs(), plan
        self._branch_inputs = branch_inputs
        self._states: deque[tuple[State, Tensor]] = deque()
        self._bytes = 0

    def latest(self) -> State | None:
        """The furthest state of an earlier run from which this one can go on, or None."""
        return self.store.latest(*self._where, self._branch_inputs)

    def add(self, state: State, finite: Tensor | bool = True) -> None:
        """Notes a state after its step.

        Args:
            state: The state.
            finite: Whether everything that led to it was a number.
        """
        good = torch.stack([torch.isfinite(t).all() for t in _tensors(state)]).all() & finite
        self._states.append((state, good))
        self._bytes += _bytes(state)
        while self._bytes > self.store.max_bytes > 0:  # the store would drop it anyway
            self._bytes -= _bytes(self._states.popleft()[0])

    def publish(self) -> None:
        """Gives the store every state up to the first that is not finite; waits for a GPU."""
        if not self._states or self._read_inputs() != self._where[0]:
            return
        flags = torch.stack([good for _, good in self._states]).tolist()
        for (state, _), good in zip(self._states, flags, strict=True):
            if not good:
                break
            self.store.add(*self._where, state, self._branch_inputs)
        self._states.clear()


def _tensors(state: State) -> tuple[Tensor, ...]:
    return (state.x, state.denoised, *state.memory, *state.kept)


def _bytes(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))
