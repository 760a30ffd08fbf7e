"""Declared pools: nodes that an autoscaler would add if pods were Pending for want of them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

_NAME = Annotated[str, msgspec.Meta(pattern="^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class PoolTaint(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """A taint that each node of a pool has."""

    key: Annotated[str, msgspec.Meta(min_length=1)]
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class NodePool(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True
):
    """Equal nodes that an autoscaler adds and removes."""

    name: _NAME
    resource: Annotated[str, msgspec.Meta(pattern="^[^/ ]+/[^/ ]+$")] = "nvidia.com/gpu"
    """The accelerator that each node has."""
    gpus: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    """How many of them."""
    labels: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    """Labels that all of its nodes have and no others: by them its present nodes are counted."""
    taints: tuple[PoolTaint, ...] = ()
    max_nodes: Annotated[int, msgspec.Meta(ge=1, le=100_000)]
    """Nodes that it may have, those that exist included."""


def parse_pool(text: str) -> NodePool:
    """Decode a pool from JSON; raises ValueError that names the field."""
    try:
        return msgspec.json.decode(text, type=NodePool)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
