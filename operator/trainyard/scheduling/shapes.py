"""What a pod requests of a node, and which nodes could ever hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from trainyard.api.cluster import Node, Toleration
from trainyard.api.resources import ResourceAmounts, is_extended

_BLOCKING_EFFECTS: Final = frozenset({"NoSchedule", "NoExecute"})
ANY_RESOURCE: Final = ""
"""Stands for all that a pod without accelerators competes for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodShape:
    """What a pod requests of a node; pods of equal shape compete for the same nodes."""

    requests: tuple[tuple[str, int], ...]
    """Amounts by resource, accelerators first, the one that the job names before others."""
    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    @classmethod
    def of(
        cls,
        requests: ResourceAmounts,
        *,
        first: str = "",
        node_selector: Mapping[str, str] | None = None,
        tolerations: Iterable[Toleration] = (),
    ) -> Self:
        """The shape of such pods; `first` is the accelerator that the job names."""
        order = sorted(requests, key=lambda r: (r != first, not is_extended(r), r))
        return cls(
            requests=tuple((resource, requests[resource]) for resource in order),
            selector=tuple(sorted((node_selector or {}).items())),
            tolerations=tuple(tolerations),
        )

    @property
    def accelerators(self) -> tuple[tuple[str, int], ...]:
        """Amounts of extended resources: accelerators, and network devices beside them."""
        return tuple(item for item in self.requests if is_extended(item[0]))

    @property
    def contended(self) -> tuple[str, ...]:
        """The resources over which it competes with other shapes: scarce ones, where it has any."""
        return tuple(resource for resource, _ in self.accelerators) or (ANY_RESOURCE,)

    def fits(self, amounts: ResourceAmounts) -> int:
        """How many such pods these amounts suffice for."""
        least = None
        for resource, needed in self.requests:
            count: int = amounts.get(resource, 0) // needed
            if count <= 0:
                return 0
            least = count if least is None or count < least else least
        return least or 0

    def scarcest_in(self, amounts: ResourceAmounts) -> str:
        """The resource of which these amounts suffice for the fewest pods."""
        return min(self.requests, key=lambda item: amounts.get(item[0], 0) // item[1])[0]


def matches(node: Node, shape: PodShape) -> bool:
    """Whether kube-scheduler might ever put such a pod on the node, were it ready and empty."""
    return (
        shape.fits(node.allocatable) > 0
        and all(node.labels.get(key) == value for key, value in shape.selector)
        and all(
            any(toleration.tolerates(taint) for toleration in shape.tolerations)
            for taint in node.taints
            if taint.effect in _BLOCKING_EFFECTS
        )
    )


class NodeMatcher:
    """Which nodes match a shape, remembered for as long as no node changes.

    One tenant can ask for as many selectors as it likes: nodes are found by label, so that a
    selector costs no more than the nodes that have it.
    """

    __slots__ = ("_by_label", "_matching", "_nodes", "_sorted")

    def __init__(self) -> None:
        self._nodes: tuple[Node, ...] | None = None
        self._sorted: tuple[Node, ...] = ()
        self._by_label: dict[tuple[str, str], list[Node]] = {}
        self._matching: dict[PodShape, tuple[Node, ...]] = {}

    def use(self, nodes: tuple[Node, ...]) -> None:
        """Answer for these nodes; the same object as before keeps what is known."""
        if nodes is self._nodes:
            return
        self._nodes, self._matching = nodes, {}
        self._sorted = tuple(sorted(nodes, key=lambda node: node.name))
        self._by_label = {}
        for node in self._sorted:
            for label in node.labels.items():
                self._by_label.setdefault(label, []).append(node)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes by name."""
        return self._sorted

    def matching(self, shape: PodShape) -> tuple[Node, ...]:
        """The nodes that match the shape, by name."""
        if shape not in self._matching:
            if len(self._matching) >= _MAX_SHAPES:
                self._matching.clear()
            labelled = (self._by_label.get(label, []) for label in shape.selector)
            fewest = min(labelled, key=len, default=self._sorted)
            self._matching[shape] = tuple(node for node in fewest if matches(node, shape))
        return self._matching[shape]


_MAX_SHAPES: Final = 2048
"""Shapes remembered at a time: each costs a pointer for every node that matches."""
