"""What `storage=` means: a name, a storage, or a pair of these for the first and the second moment."""

import dataclasses

from ewa_optax.storage._formats import BFloat16, EightBit, Float16, Float24, Storage

NAMED = {"bfloat16": BFloat16(), "float16": Float16(), "8bit": EightBit(), "24bit": Float24()}


Chosen = Storage | str | None
Pair = Chosen | tuple[Chosen, Chosen]


_ROLES, _FAR = 3, 2**40  # Seeds so far apart are nobody's.


def resolve(storage: Chosen) -> Storage | None:
    """The storage of that name; a storage, or None, is itself."""
    if isinstance(storage, str) and storage in NAMED:
        return NAMED[storage]
    if storage is None or isinstance(storage, Storage):
        return storage
    names = ", ".join(map(repr, NAMED))
    remedy = "optimizers with two moments, no others, also take a pair"
    if isinstance(storage, type):
        remedy = "name a dtype in quotes, and make an object of a class of storages"
    raise (ValueError if isinstance(storage, str | tuple) else TypeError)(
        f"storage must be None (float32), {names} or a Storage such as ewa_optax.storage.EightBit(block=128), "
        f"got {storage!r}; {remedy}."
    )


def for_gradients(storage: Chosen) -> Storage | None:
    """The storage for an average of gradients."""
    resolved = resolve(storage)
    return resolved and resolved.for_gradients()


def for_squares(storage: Chosen) -> Storage | None:
    """The storage for an average of squares."""
    resolved = resolve(storage)
    return resolved and resolved.for_squares()


def first(storage: Pair, number: int = 0) -> Storage | None:
    """What a storage, or a pair of them, says of the average of gradients; if there are more, of one by its number."""
    return _apart(for_gradients(_pair(storage)[0]), number)


def second(storage: Pair) -> Storage | None:
    """What a storage, or a pair of them, says of the average of squares."""
    return _apart(for_squares(_pair(storage)[1]), -1)


def _apart(storage, number):
    """The storage with another seed, for averages that may have the same decay."""
    return storage and dataclasses.replace(storage, seed=int(storage.seed) + number % _ROLES * _FAR)


def _pair(storage):
    if isinstance(storage, tuple) and len(storage) == 2:
        return storage
    return storage, storage
