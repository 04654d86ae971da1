"""What was used last stays, up to a number of bytes and of items; the rest makes room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class _Place(NamedTuple, Generic[Item]):
    item: Item
    bytes: int


class Shelf(Generic[Item]):
    """One level of a cache. An item larger than the budget is kept alone."""

    def __init__(
        self,
        budget_bytes: int,
        most_items: int | None = None,
        on_eviction: Callable[[str, Item], None] = lambda _key, _item: None,
    ) -> None:
        self._budget_bytes = budget_bytes
        self._most_items = most_items
        self._on_eviction = on_eviction
        self._places: OrderedDict[str, _Place[Item]] = OrderedDict()
        self._reserved_bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        """The least recently used first."""
        return iter(list(self._places))

    def get(self, key: str) -> Item | None:
        """And it counts as used."""
        if key not in self._places:
            return None
        self._places.move_to_end(key)
        return self._places[key].item

    def reserve(self, size_bytes: int) -> None:
        """So much of the budget is used elsewhere; whatever comes next makes room for it."""
        self._reserved_bytes = size_bytes

    def make_room(self, wanted_bytes: int) -> None:
        """Before something of that size is loaded, so that both are never held at once."""
        while self._places and not self._fits(wanted_bytes):
            key, place = self._places.popitem(last=False)
            self._on_eviction(key, place.item)

    def put(self, key: str, item: Item, size_bytes: int) -> None:
        self._places.pop(key, None)
        self.make_room(size_bytes)
        self._places[key] = _Place(item, size_bytes)

    def take(self, key: str) -> Item | None:
        """Out of the shelf, without an eviction."""
        place = self._places.pop(key, None)
        return place.item if place else None

    def clear(self) -> None:
        """Without evictions."""
        self._places.clear()

    def _fits(self, wanted_bytes: int) -> bool:
        held = self._reserved_bytes + sum(place.bytes for place in self._places.values())
        few_enough = self._most_items is None or len(self._places) < self._most_items
        return few_enough and held + wanted_bytes <= self._budget_bytes
