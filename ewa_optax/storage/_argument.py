"""What `storage=` means: a name, a storage, or a pair of these for the first and the second moment."""

import dataclasses

from ewa_optax.storage._blocks import EightBit
from ewa_optax.storage._formats import BFloat16, Float16, Float24
from ewa_optax.storage._storage import Storage

NAMED = {"bfloat16": BFloat16(), "float16": Float16(), "8bit": EightBit(), "24bit": Float24()}
"""What the names stand for."""

StorageLike = Storage | str | None
MomentStorages = StorageLike | tuple[StorageLike, StorageLike]


_ROLES, _FAR = 3, 2**40  # Seeds so far apart are nobody's.


def resolve(storage: StorageLike) -> Storage | None:
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


def for_gradients(storage: StorageLike) -> Storage | None:
    """The storage for an average of gradients, which may be negative.

    Args:
        storage: None, a name or a storage, as in `ewa_optax.scale_by_ewa`.

    Returns:
        A storage, or None, which is float32.

    Raises:
        ValueError: an unknown name, a pair, or a storage for squares only.
        TypeError: what is no storage.

    Examples:
        >>> from ewa_optax import storage
        >>> storage.for_gradients("8bit").squares
        False
    """
    resolved = resolve(storage)
    return resolved and resolved.for_gradients()


def for_squares(storage: StorageLike) -> Storage | None:
    """The storage for an average of squares, which are never negative, and of which none may be rounded to 0.

    Args:
        storage: as in `for_gradients`.

    Returns:
        A storage, or None, which is float32.

    Raises:
        ValueError: an unknown name, or a pair.
        TypeError: what is no storage.

    Examples:
        >>> from ewa_optax import storage
        >>> storage.for_squares("8bit").squares
        True
    """
    resolved = resolve(storage)
    return resolved and resolved.for_squares()


def first_moment(storage: MomentStorages, which: int = 0) -> Storage | None:
    """What the `storage` of an optimizer with two moments says of its average of gradients.

    Args:
        storage: None, a name, a storage, or a pair of these: for averages of gradients, and for those of squares.
        which: the number of the average, if there are several of gradients: else one chance would round them all.

    Returns:
        A storage, or None, which is float32.

    Raises:
        ValueError: as in `for_gradients`.
        TypeError: what is no storage.

    Examples:
        >>> from ewa_optax import storage
        >>> storage.first_moment(("bfloat16", "8bit"))
        BFloat16(rounding='stochastic', min_size=4096, seed=0)
    """
    return _apart(for_gradients(_pair(storage)[0]), which)


def second_moment(storage: MomentStorages) -> Storage | None:
    """What the `storage` of an optimizer with two moments says of its average of squares.

    Args:
        storage: as in `first_moment`.

    Returns:
        A storage whose chance is not that of the first moment, or None, which is float32.

    Raises:
        ValueError: an unknown name.
        TypeError: what is no storage.

    Examples:
        >>> from ewa_optax import storage
        >>> storage.second_moment(("bfloat16", "8bit")).squares
        True
    """
    return _apart(for_squares(_pair(storage)[1]), -1)


def _apart(storage, number):
    """The storage with another seed, for averages that may have the same decay."""
    return storage and dataclasses.replace(storage, seed=int(storage.seed) + number % _ROLES * _FAR)


def _pair(storage):
    if isinstance(storage, tuple) and len(storage) == 2:
        return storage
    return storage, storage
