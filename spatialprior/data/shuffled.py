"""Shuffled passes over n things, with random access and without a list of them."""

from __future__ import annotations

import hashlib

_ROUNDS = 6
_MIN_HALF_BITS = 4
_MASK = (1 << 64) - 1


class ShuffledPasses:
    """Pass k visits 0 to n - 1 once each, in an order of its own.

    The order is a Feistel network over the next power of four, walked until it lands below n. So position p of
    pass k costs microseconds and no memory, wherever a run resumes, while a stored permutation would cost every
    loader process eight bytes a sample for every source (and the time to draw it).

    Args:
        length: n, at least 1.
        key: Whatever makes this order differ from others: seed, split, name.
    """

    def __init__(self, length: int, *key: object) -> None:
        if length < 1:
            raise ValueError("nothing to shuffle: the length is 0")
        self.length = length
        self._half = max(_MIN_HALF_BITS, ((length - 1).bit_length() + 1) // 2)
        self._key = key
        self._pass = -1
        self._round_keys: tuple[int, ...] = ()

    def __getitem__(self, index: int) -> int:
        """What comes at place ``index % n`` of pass ``index // n``."""
        if index < 0:
            raise IndexError(f"index {index} is negative")
        lap, value = divmod(index, self.length)
        if lap != self._pass:
            self._round_keys, self._pass = self._keys(lap), lap
        while True:
            value = self._permute(value)
            if value < self.length:
                return value

    def _keys(self, lap: int) -> tuple[int, ...]:
        digest = hashlib.blake2b(repr((*self._key, lap)).encode(), digest_size=8 * _ROUNDS).digest()
        return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS))

    def _permute(self, value: int) -> int:
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for key in self._round_keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return left << self._half | right


def _mix(value: int) -> int:
    """The finaliser of SplitMix64: every input bit reaches every output bit."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)
