"""Records decoded by threads; as many as fit stay in memory, where forked workers share them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from fna.data.stamps import THREADS
from fna.errors import FnaError
from fna.progress import bar


class Pixels(Protocol):
    """What is decoded: anything that knows its size in memory."""

    @property
    def nbytes(self) -> int:
        """Return the memory of the pixels in bytes."""


T = TypeVar("T", bound=Pixels)


class Cache(Generic[T]):
    """Decoded records by position.

    Args:
        decode: decodes the record at a position, or raises an `FnaError`.
        where: what the progress bar calls the split.
        cache_gb: memory for decoded records, in 1e9 bytes.
    """

    def __init__(self, decode: Callable[[int], T], where: str, cache_gb: float) -> None:
        self._decode, self._where, self._bytes = decode, where, cache_gb * 1e9
        self._kept: dict[int, T] = {}

    def load(self, position: int) -> T:
        """Return a record; it may be the cache's own, so do not write to it.

        Raises:
            FnaError: it cannot be read.
        """
        kept = self._kept.get(position)
        return self._decode(position) if kept is None else kept

    def decode_all(self, total: int) -> Iterator[T | FnaError]:
        """Yield each record, or what is wrong with it; keep the first ones that fit."""
        room = self._bytes
        for position, outcome in enumerate(self._outcomes(range(total))):
            if not isinstance(outcome, FnaError):
                room -= outcome.nbytes
                if room >= 0:
                    self._kept[position] = outcome
            yield outcome

    def preload(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Decode the first records that fit, so that forked workers find them there.

        Args:
            sizes: position and bytes of the records, in their order.
        """
        room, wanted = self._bytes, []
        for position, nbytes in sizes:
            room -= nbytes
            if room < 0:
                break
            wanted += [position] if position not in self._kept else []
        for position, outcome in zip(wanted, self._outcomes(wanted), strict=True):
            if not isinstance(outcome, FnaError):  # who loads it will say what is wrong
                self._kept[position] = outcome

    def _outcomes(self, positions: Sequence[int]) -> Iterator[T | FnaError]:
        """Decode records, a block at a time to bound memory."""
        if not positions:
            return
        with bar(len(positions), f"reading {self._where}") as progress, ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(positions), 4 * THREADS):
                for outcome in pool.map(self._attempt, positions[start : start + 4 * THREADS]):
                    progress.advance()
                    yield outcome

    def _attempt(self, position: int) -> T | FnaError:
        try:
            return self._decode(position)
        except FnaError as error:
            return error
