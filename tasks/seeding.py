"""Randomness that belongs to a sample: seeded by the hash of its identity, stable across Python versions.

Only `Random.getrandbits` and `Random.random` of the standard library keep their sequences between Python versions,
so choices and shuffles are built here on `getrandbits`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, ASCII only. Raises TypeError for what JSON lacks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def identity_hash(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


class Draw:
    """A random stream named by text; equal names give equal streams on any machine."""

    def __init__(self, *name: str | int) -> None:
        digest = hashlib.sha256("\x1f".join(str(part) for part in name).encode()).digest()
        self._random = Random(int.from_bytes(digest, "big"))

    def below(self, limit: int) -> int:
        """A uniform integer in [0, limit)."""
        if limit < 1:
            raise ValueError(f"limit must be positive, not {limit}")
        bits = limit.bit_length()
        while (value := self._random.getrandbits(bits)) >= limit:
            pass
        return value

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random.random() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One item, uniformly."""
        return items[self.below(len(items))]

    def order(self, count: int) -> list[int]:
        """A uniform permutation of range(count), by sorting 64-bit keys."""
        raw = self._random.getrandbits(64 * count).to_bytes(8 * count, "little") if count else b""
        keys = struct.unpack(f"<{count}Q", raw)
        return sorted(range(count), key=keys.__getitem__)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a uniform order; the argument stays as it is."""
        return [items[position] for position in self.order(len(items))]

    def pick(self, items: Sequence[T], count: int) -> list[T]:
        """`count` distinct positions' items in random order."""
        if count > len(items):
            raise ValueError(f"cannot pick {count} of {len(items)} items")
        if 4 * count >= len(items):
            return self.shuffled(items)[:count]
        return [items[position] for position in islice(self.distinct(len(items)), count)]

    def distinct(self, limit: int) -> Iterator[int]:
        """The integers of range(limit) in random order, drawn as they are asked for; cheap for a small share."""
        seen: set[int] = set()
        while len(seen) < limit:
            value = self.below(limit)
            if value not in seen:
                seen.add(value)
                yield value

    def text(self, alphabet: str, length: int) -> str:
        """`length` characters, each uniform over at most 256 different ASCII ones."""
        usable = 256 - 256 % len(alphabet)
        table = bytes(ord(alphabet[byte % len(alphabet)]) for byte in range(256))
        out = b""
        while len(out) < length:
            wanted = length - len(out) + 8
            raw = self._random.getrandbits(8 * wanted).to_bytes(wanted, "little")
            out += raw.translate(table, bytes(range(usable, 256)))
        return out[:length].decode("ascii")
