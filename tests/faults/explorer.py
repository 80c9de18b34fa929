"""A small exhaustive explorer: every state a model can reach, breadth first, and the shortest way to what must not be.

A model gives its first state and, for a state, its steps. A step leads to another state or breaks a promise. Steps are
*ordinary* (what a healthy fleet goes on to do) or misfortune (a crash, a lost answer, a person's whim). Two things are
checked: no step breaks a promise, and from every state ordinary steps alone can lead to a settled one, however much
misfortune came before. The second is reachability, not fairness: it finds what nobody would ever undo.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

STUCK = "nothing is stuck"

S = TypeVar("S", bound=Hashable)


class Broken(str):
    """The promise that a step breaks."""

    __slots__ = ()


class Model(Protocol[S]):
    """What can be explored."""

    def initial(self) -> S: ...

    def steps(self, state: S) -> Sequence[tuple[str, bool, S | Broken]]:
        """(what is done, whether it is ordinary, what it leads to)"""
        ...

    def successors(self, state: S) -> tuple[list[S], list[S]] | None:
        """Where ordinary steps lead and where misfortune does; None where a step breaks a promise."""
        ...

    def settled(self, state: S) -> bool: ...

    def show(self, state: S) -> str: ...


class Stepwise(Generic[S]):
    """`successors` by `steps`, for models too small to need it faster."""

    def steps(self, state: S) -> Sequence[tuple[str, bool, S | Broken]]:
        raise NotImplementedError

    def show(self, state: S) -> str:
        return str(state)

    def successors(self, state: S) -> tuple[list[S], list[S]] | None:
        found: tuple[list[S], list[S]] = ([], [])
        for _, ordinary, to in self.steps(state):
            if isinstance(to, Broken):
                return None
            found[not ordinary].append(to)
        return found


@dataclass(frozen=True)
class Explored:
    """What was found. broken: the promise that does not hold, with the shortest trace to it; None where all hold."""

    states: int
    steps: int
    seconds: float
    broken: str | None = None
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = f"{self.states:,} states, {self.steps:,} steps, {self.seconds:.1f} s"
        if self.broken is None:
            return f"every promise holds: {size}"
        return "\n  ".join([f"broken after {len(self.trace)} steps ({size}): {self.broken}", *self.trace])


class TooManyStates(Exception):
    """Raised when a model is larger than the bound that was given."""


def explore(model: Model[S], most: int = 1_000_000, *, whole: bool = True) -> Explored:
    """Every state. Raises TooManyStates for more than `most`, whose memory nobody has planned for.

    whole: False is content with the first `most` states; what is stuck is not looked for among them.
    """
    exploration = _Exploration(model, most)
    try:
        return exploration.run()
    except TooManyStates:
        if whole:
            raise
        return exploration.found(None, [])


class _Exploration(Generic[S]):
    def __init__(self, model: Model[S], most: int) -> None:
        self._model = model
        self._most = most
        self._began = time.monotonic()
        first = model.initial()
        self._number: dict[S, int] = {first: 0}
        self._states: list[S] = [first]
        self._parents = array("q", [-1])
        self._offsets = array("q", [0])  # of the ordinary steps of a state in `_targets`
        self._targets = array("q")
        self._steps = 0

    def run(self) -> Explored:
        for number, state in enumerate(self._states):  # it grows while it is walked: it is the queue
            found = self._model.successors(state)
            if found is None:
                return self._first_broken(number)
            ordinary, others = found
            self._targets.extend([self._reach(to, number) for to in ordinary])
            self._offsets.append(len(self._targets))
            for to in others:
                self._reach(to, number)
            self._steps += len(ordinary) + len(others)
        stuck = self._stuck()
        if stuck is None:
            return self.found(None, [])
        return self.found(STUCK, [*self._trace(stuck), f"for ever: {self._model.show(self._states[stuck])}"])

    def _reach(self, state: S, parent: int) -> int:
        number = self._number.setdefault(state, len(self._states))
        if number == len(self._states):
            if number == self._most:
                raise TooManyStates(f"more than {self._most:,} states")
            self._states.append(state)
            self._parents.append(parent)
        return number

    def _first_broken(self, number: int) -> Explored:
        steps = self._model.steps(self._states[number])
        label, promise = next((label, to) for label, _, to in steps if isinstance(to, Broken))
        return self.found(str(promise), [*self._trace(number), label])

    def _stuck(self) -> int | None:
        """The first state from which ordinary steps lead to no settled one.

        Most steps lead to later states, so a few walks from the last to the first tell of all.
        """
        hopeful = bytearray(self._model.settled(state) for state in self._states)
        offsets, targets = self._offsets, self._targets
        left = [number for number in range(len(self._states)) if not hopeful[number]]
        while left:
            before = len(left)
            for number in reversed(left):
                hopeful[number] = any(hopeful[to] for to in targets[offsets[number] : offsets[number + 1]])
            left = [number for number in left if not hopeful[number]]
            if len(left) == before:
                return left[0]
        return None

    def _trace(self, number: int) -> list[str]:
        labels = []
        while number > 0:
            parent = self._parents[number]
            steps = self._model.steps(self._states[parent])
            labels.append(next(label for label, _, to in steps if to == self._states[number]))
            number = parent
        return labels[::-1]

    def found(self, broken: str | None, trace: list[str]) -> Explored:
        seconds = time.monotonic() - self._began
        return Explored(len(self._states), self._steps, seconds, broken, tuple(trace))
