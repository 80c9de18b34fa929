"""What a task asks for, what an instance has, and the lane both meet in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from slotsched import contract

_EMPTY: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a task holds from claim to the last process's death.

    slots: positive. memory: bytes or None. resources: units by name. tags: what the instance must carry.
    exclusive: alone on its machine; `slots` is then the least that machine must have.
    """

    slots: int = 1
    memory: int | None = None
    resources: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    tags: tuple[str, ...] = ()
    exclusive: bool = False

    def on(self, capacity: Capacity) -> Needs:
        """What a task with these needs holds there: an exclusive one all slots, so that nothing can be beside it."""
        if not self.exclusive or self.slots >= capacity.slots:
            return self
        return replace(self, slots=capacity.slots)


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What an instance has, or has free. memory: bytes, None = not counted."""

    slots: int
    memory: int | None = None
    resources: Mapping[str, int] = field(default_factory=lambda: _EMPTY)
    tags: tuple[str, ...] = ()

    def fits(self, needs: Needs) -> bool:
        """Whether a task with these needs can be taken out of this capacity."""
        return self.lacks(needs) is None

    def lacks(self, needs: Needs) -> str | None:
        """The first thing missing for these needs, in words (`slots`, `memory`, `gpu`, `tag ssd`); None if it fits."""
        if needs.slots > self.slots:
            return "slots"
        if needs.memory is not None and self.memory is not None and needs.memory > self.memory:
            return "memory"
        for name, units in needs.resources.items():
            if units > self.resources.get(name, 0):
                return name
        for tag in needs.tags:
            if tag not in self.tags:
                return f"tag {tag}"
        return None

    def less(self, needs: Needs) -> Capacity:
        """What is left when a task with these needs is taken out; slots may become negative after a shrink."""
        memory = None if self.memory is None else self.memory - (needs.memory or 0)
        resources = {name: units - needs.resources.get(name, 0) for name, units in self.resources.items()}
        return replace(self, slots=self.slots - needs.slots, memory=memory, resources=resources)


def resource_variable(name: str) -> str:
    """The variable that tells an attempt which units of a resource it holds."""
    return contract.ENV_RESOURCE_PREFIX + re.sub(r"[^A-Z0-9_]", "_", name.upper())


@dataclass(frozen=True, kw_only=True)
class Lane:
    """All tasks with the same job and the same needs; the claim asks only for lanes it can serve now.

    key: where tasks of one job share limits by the value of an argument, a digest of that value. Tasks whose limit is
    reached then never stand in front of others that could start: their whole lane is left out.

    Written `job|slots|memory|gpu=1,tpu=2|tag,tag`, with `!` behind the slots of exclusive needs and `|key` at the end
    where there is one; names of jobs, resources and tags never hold `|`, `,` or `=`.
    """

    job: str
    needs: Needs
    key: str | None = None

    def __str__(self) -> str:
        needs = self.needs
        resources = ",".join(f"{name}={units}" for name, units in sorted(needs.resources.items()))
        alone = "!" if needs.exclusive else ""
        lane = f"{self.job}|{needs.slots}{alone}|{needs.memory or ''}|{resources}|{','.join(sorted(needs.tags))}"
        return lane if self.key is None else f"{lane}|{self.key}"

    @classmethod
    def parse(cls, text: str) -> Lane:
        """The lane of a stored string. Raises ValueError for one that no slotsched wrote."""
        job, slots, memory, resources, tags, *keys = text.split("|")
        if len(keys) > 1 or "" in keys:
            raise ValueError(f"{text!r} is no lane")
        pairs = (pair.split("=") for pair in resources.split(",") if pair)
        needs = Needs(
            slots=int(slots.removesuffix("!")),
            memory=int(memory) if memory else None,
            resources={name: int(units) for name, units in pairs},
            tags=tuple(tag for tag in tags.split(",") if tag),
            exclusive=slots.endswith("!"),
        )
        return cls(job=job, needs=needs, key=keys[0] if keys else None)
