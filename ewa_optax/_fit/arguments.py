"""The arguments of `fit`: what must hold before anything is done."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ewa_optax._checks import check_integer


def check_numbers(*, checkpoint_every: Any, patience: Any) -> None:
    """Raises unless each is None or a number to count by."""
    if checkpoint_every is not None:
        check_integer("checkpoint_every", checkpoint_every, 1, remedy="1 saves each step")
    if patience is not None:
        check_integer("patience", patience, 1, remedy="1 stops after the first epoch without progress")


def check_together(*, patience: Any, validation: Any, validation_loss: Any, has_key: bool) -> None:
    """Raises ValueError for what only goes with something else."""
    if validation is None:
        for name, value in (("patience", patience), ("validation_loss", validation_loss)):
            if value is not None:
                raise ValueError(f"{name}={value!r} needs validation data; pass validation=, or leave {name} out.")
    elif has_key and validation_loss is None:
        raise ValueError("validation with has_key needs a loss without a key; pass it as validation_loss.")


def check_epochs(data: Any, epochs: int) -> None:
    """Raises ValueError for more epochs than an iterator has; before the first one, lest what it trained is lost."""
    if isinstance(data, Iterator) and epochs > 1:
        raise ValueError(
            f"epochs must be 1 for an iterator such as {data!r}, which can be run through only once, got {epochs}; "
            "pass an iterable that begins anew, such as a class with a method __iter__."
        )


def check_aux(aux: Any) -> None:
    """Raises TypeError for what the history can't hold."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(aux):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(
                f"aux{jax.tree_util.keystr(path)} must be of numbers, got {leaf.dtype}; return "
                "jax.random.key_data(key)."
            )


def initial_state(optimizer: optax.GradientTransformation, params: Any, opt_state: Any) -> Any:
    """Where the optimizer begins; ValueError for the state of another one."""
    if opt_state is None:
        return optimizer.init(params)
    expected = jax.tree.structure(jax.eval_shape(optimizer.init, params))
    if jax.tree.structure(opt_state) != expected:
        raise ValueError(
            f"opt_state is of another optimizer or model: its structure is {jax.tree.structure(opt_state)}, that of "
            f"optimizer.init(params) {expected}; leave it out to begin anew."
        )
    return opt_state
