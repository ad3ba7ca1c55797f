"""Reference-counted cache of expensive resources: shared while in use, the most recent idle ones kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """A resource."""

    def close(self) -> None:
        """Release it; called once, when it has no user."""
        ...


Key = TypeVar("Key", bound=Hashable)
Resource = TypeVar("Resource", bound=Closable)


@dataclass(eq=False, slots=True)
class _Entry(Generic[Resource]):
    resource: Resource | None = None
    users: int = 0
    discarded: bool = False
    opening: threading.Lock = field(default_factory=threading.Lock)


class ResourceCache(Generic[Key, Resource]):
    """Opens a resource when it is first borrowed, shares it, and closes the least recently used idle ones.

    Thread-safe; a resource that opens slowly blocks only those who borrow the same one.
    """

    def __init__(
        self,
        open_resource: Callable[[Key], Resource],
        *,
        idle: int,
        idle_bytes: int = 0,
        size: Callable[[Resource], int] = lambda resource: 0,
    ) -> None:
        """Keep up to `idle` resources without a user.

        size: bytes that a resource holds. Together the idle ones hold up to `idle_bytes`, or only the most recently
        used one is kept.
        """
        self._open, self._idle, self._idle_bytes, self._size = open_resource, idle, idle_bytes, size
        self._entries: dict[Key, _Entry[Resource]] = {}  # the most recently used last
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, key: Key) -> Iterator[Resource]:
        """Context with the resource of a key, which stays open within. Raises what opening it raises."""
        with self._lock:
            entry = self._entries.pop(key, None) or _Entry()
            self._entries[key] = entry
            entry.users += 1
        try:
            with entry.opening:
                if entry.resource is None:
                    entry.resource = self._open(key)
            yield entry.resource
        finally:
            self._give_back(key, entry)

    def discard(self, key: Key) -> None:
        """Close the resource of a key as soon as it has no user; does nothing without one."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return
            entry.discarded = True
            closing = self._taken(key, entry)
        _close(closing)

    def _give_back(self, key: Key, entry: _Entry[Resource]) -> None:
        with self._lock:
            entry.users -= 1
            closing = self._taken(key, entry) if entry.discarded or entry.resource is None else []
            closing += self._surplus()
        _close(closing)

    def _surplus(self) -> list[Resource]:
        """Take out the idle resources that are too many or too large."""
        idle = [(key, entry) for key, entry in self._entries.items() if not entry.users]
        held = 0
        surplus: list[Resource] = []
        for kept, (key, entry) in enumerate(reversed(idle), start=1):
            held += 0 if entry.resource is None else self._size(entry.resource)
            if kept > self._idle or (kept > 1 and held > self._idle_bytes):
                surplus += self._taken(key, entry)
        return surplus

    def _taken(self, key: Key, entry: _Entry[Resource]) -> list[Resource]:
        """Take out a resource that has no user, to be closed by the caller without the lock."""
        if entry.users:
            return []
        if self._entries.get(key) is entry:
            del self._entries[key]
        resource, entry.resource = entry.resource, None
        return [] if resource is None else [resource]


def _close(resources: list[Resource]) -> None:
    for resource in resources:
        resource.close()
