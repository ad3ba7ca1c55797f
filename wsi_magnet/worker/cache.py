"""What is dear to open is kept for whoever needs it next: in use by any number, and a few that nobody uses now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What can be let go of."""

    def close(self) -> None:
        """Called once, when nobody uses it."""
        ...


Key = TypeVar("Key", bound=Hashable)
Thing = TypeVar("Thing", bound=Closable)


@dataclass(eq=False, slots=True)
class _Place(Generic[Thing]):
    thing: Thing | None = None
    users: int = 0
    unwanted: bool = False
    making: threading.Lock = field(default_factory=threading.Lock)


class ResourceCache(Generic[Key, Thing]):
    """Makes a thing when it is first asked for, hands it to all who ask, and closes what nobody has used for longest.

    Safe to use from several threads; slow makers hold up only those who want the same thing.
    """

    def __init__(self, make: Callable[[Key], Thing], *, idle: int) -> None:
        """Up to `idle` things that nobody uses are kept."""
        self._make, self._idle = make, idle
        self._places: dict[Key, _Place[Thing]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, key: Key) -> Iterator[Thing]:
        """The thing of that key, which stays open within. Raises what making it raises."""
        with self._lock:
            place = self._places.pop(key, None) or _Place()
            self._places[key] = place  # the last is the one that was used last
            place.users += 1
        try:
            with place.making:
                if place.thing is None:
                    place.thing = self._make(key)
            yield place.thing
        finally:
            self._back(key, place)

    def discard(self, key: Key) -> None:
        """Close the thing of that key as soon as nobody uses it; nothing where there is none."""
        with self._lock:
            place = self._places.get(key)
            if place is None:
                return
            place.unwanted = True
            idle = self._taken(key, place)
        if idle is not None:
            idle.close()

    def _back(self, key: Key, place: _Place[Thing]) -> None:
        with self._lock:
            place.users -= 1
            closing = [self._taken(key, place)] if place.unwanted or place.thing is None else []
            idle = [(k, p) for k, p in self._places.items() if not p.users]
            closing += [self._taken(k, p) for k, p in idle[: max(0, len(idle) - self._idle)]]
        for thing in closing:
            if thing is not None:
                thing.close()

    def _taken(self, key: Key, place: _Place[Thing]) -> Thing | None:
        """What lay there, to be closed by the caller; None where it is in use, or there was nothing."""
        if place.users:
            return None
        if self._places.get(key) is place:
            del self._places[key]
        thing, place.thing = place.thing, None
        return thing
