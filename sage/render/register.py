"""What the actors of a cluster have begun: an actor of its own, which imports nothing large."""

from collections.abc import Callable, Sequence, Set

STRIKES = 2  # processes that a unit may take with it
STRIKES_IN_VAIN = 3  # units lost before any was finished: it is not theirs
NODES = 8  # lost while they rendered a unit; with more, it counts as the cause


class Register:
    """What actors have begun and not ended; they do not live to tell what ended them.

    An actor that went with its node does not count against what it was doing, unless that has
    lost more than NODES nodes: it may be what takes them along.
    """

    def __init__(self, lost_nodes: Callable[[], Set[str]]) -> None:
        """Takes a function that gives the ids of the nodes that are gone."""
        self.lost_nodes = lost_nodes
        self.begun: dict[int, list[str]] = {}  # nodes on which a unit was begun
        self.loading: dict[str, list[str]] = {}  # nodes on which an actor began to load
        self.works = False

    def may_load(self, actor: str, node: str) -> bool:
        """Whether an actor is to load its model: not if it has often died of that, as all have."""
        earlier = self.loading.setdefault(actor, [])
        if not self.works and self._strikes(earlier) >= STRIKES_IN_VAIN:
            return False
        earlier.append(node)
        return True

    def loaded(self) -> None:
        """An actor has its model."""
        self.works = True

    def may_begin(self, unit: int, node: str) -> bool:
        """Whether a unit is to be rendered: not if it has ended as many actors as it may."""
        earlier = self.begun.setdefault(unit, [])
        if self._strikes(earlier) >= STRIKES:
            return False
        earlier.append(node)
        return True

    def ended(self, unit: int) -> None:
        """A unit is rendered."""
        self.begun.pop(unit, None)

    def _strikes(self, nodes: Sequence[str]) -> int:
        """How many beginnings count; looked up anew each time, as a loss may be noticed late."""
        if not nodes:  # as nearly always, and the cluster need not be asked
            return 0
        gone = self.lost_nodes() & set(nodes)
        return sum(node not in gone or len(gone) > NODES for node in nodes)


def lost_nodes() -> set[str]:
    """Ids of the nodes that the cluster has lost, by a failure or because they were taken away.

    Of an actor that died, Ray can tell no more: whether its process crashed or was ended from
    outside looks the same.
    """
    import ray

    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
