"""DataLoader: a dataset in batches, epoch after epoch."""

from __future__ import annotations

import queue
import threading
from itertools import islice
from typing import Any, Callable, Iterator

from agog.data._collate import collate
from agog.data._datasets import access, new_seed, permutation
from agog.errors import ArgumentError, ArgumentTypeError, CheckpointError


class DataLoader:
    """Batches of a dataset. Each `for batch in loader` is one epoch.

    dataset     arrays, a tuple or dict of arrays of equal length (a batch then has the same form, and is cut out at
                once), anything with len() and items by number, or any iterable
    batch_size  items in a batch
    shuffle     a new random order in each epoch, which depends on seed and epoch alone
    seed        None draws one from `agog.random`, so that `ag.manual_seed` decides
    drop_last   leave out a last batch that is not full
    collate_fn  makes a batch of a list of items; by default they are stacked
    prefetch    number of batches that a thread prepares ahead

    `state_dict()` says where the loader stands, also in the middle of an epoch; a loader that loads it goes on with
    the next batch.
    """

    def __init__(self, dataset: Any, batch_size: int = 1, shuffle: bool = False, *, seed: int | None = None,
                 drop_last: bool = False, collate_fn: Callable[[list[Any]], Any] | None = None, prefetch: int = 0,
                 **others: Any):
        if others:
            raise ArgumentTypeError(f"DataLoader takes no {', '.join(others)}: with prefetch=n a thread prepares n "
                                    "batches ahead, there are no worker processes; a sampler is a list of indices: "
                                    "agog.data.Subset(dataset, indices)")
        for name, value, least in (("batch_size", batch_size, 1), ("prefetch", prefetch, 0)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ArgumentTypeError(f"DataLoader({name}={value!r}): give a whole number")
            if value < least:
                raise ArgumentError(f"DataLoader({name}={value}): give a whole number of at least {least}")
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2 ** 64):
            raise ArgumentError(f"DataLoader(seed={seed!r}): give a whole number from 0 to 2**64 - 1, or None")
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, batch_size, shuffle, drop_last
        self.collate_fn, self.prefetch = collate_fn, prefetch
        self._access = access(dataset, "DataLoader")
        self._n = self._access.length
        if self._n is None and shuffle:
            raise ArgumentError(f"DataLoader: a {type(dataset).__name__} has no length and no items by number, so it "
                                "cannot be shuffled")
        self.seed = new_seed() if seed is None and shuffle else seed or 0
        self.epoch, self._batch, self._pending = 0, 0, True
        self._current: Any = None

    def __len__(self) -> int:
        if self._n is None:
            raise ArgumentTypeError(f"DataLoader: a {type(self.dataset).__name__} has no length")
        return self._n // self.batch_size if self.drop_last else -(-self._n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        if not self._pending:
            self.epoch, self._batch = self.epoch + 1, 0
        self._pending = False
        token = self._current = object()
        return self._run(token, self.epoch, self._batch)

    def _run(self, token: object, epoch: int, start: int) -> Iterator[Any]:
        batches = self._batches(epoch, start)
        if self.prefetch:
            batches = _ahead(batches, self.prefetch)
        try:
            for batch in batches:
                if self._current is token:
                    self._batch += 1
                yield batch
        finally:
            batches.close()  # type: ignore[attr-defined]
        if self._current is token:
            self.epoch, self._batch, self._pending = epoch + 1, 0, True

    def _batches(self, epoch: int, start: int) -> Iterator[Any]:
        size = self.batch_size
        if self._n is None:
            items = iter(self.dataset)
            make = self.collate_fn or collate
            while chunk := list(islice(items, size)):
                if len(chunk) < size and self.drop_last:
                    return
                if start:
                    start -= 1
                    continue
                yield make(chunk)
            return
        order = permutation(self._n, self.seed, epoch) if self.shuffle else None
        for b in range(start, len(self)):
            i, j = b * size, min((b + 1) * size, self._n)
            if self._access.take is not None and self.collate_fn is None:
                yield self._access.take(slice(i, j) if order is None else order[i:j])
            else:
                numbers = range(i, j) if order is None else order[i:j].tolist()
                yield (self.collate_fn or collate)([self._access.item(k) for k in numbers])

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be this epoch."""
        self.epoch, self._batch, self._pending = epoch, 0, True

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: seed, epoch, and the number of batches of it that were handed out."""
        return {"seed": self.seed, "epoch": self.epoch, "batch": self._batch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on after the last batch that was handed out when `state_dict` was made."""
        if not isinstance(state_dict, dict) or state_dict.keys() != {"seed", "epoch", "batch"}:
            raise CheckpointError("DataLoader.load_state_dict: expected the keys 'seed', 'epoch' and 'batch'")
        self.seed, self.epoch, self._batch = (int(state_dict[k]) for k in ("seed", "epoch", "batch"))
        self._pending = True


_END = object()


def _ahead(batches: Iterator[Any], n: int) -> Iterator[Any]:
    """The same batches, prepared by a thread that is up to `n` ahead. Its errors are raised here."""
    ready: queue.Queue = queue.Queue(maxsize=n)
    stop = threading.Event()

    def put(x: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(x, timeout=0.05)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put((batch, None)):
                    return
            put((_END, None))
        except BaseException as error:  # handed over to the thread that waits
            put((_END, error))
        finally:
            batches.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=work, name="agog-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            batch, error = ready.get()
            if error is not None:
                raise error
            if batch is _END:
                return
            yield batch
    finally:
        stop.set()
        thread.join()
