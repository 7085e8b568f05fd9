"""Checks of hyperparameters where the user wrote them: the value, the rule, the remedy.

Numbers of Python and NumPy are checked when a transformation is made. JAX arrays may be traced (under `jax.jit` or
`jax.vmap` they have no value yet), so of those only shape and kind are.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._numerics import Number

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Rule(NamedTuple):
    """What a hyperparameter must satisfy, in words and as a predicate, and what to write instead."""

    text: str
    holds: Callable[[Any], bool]
    remedy: str
    accepts_schedule: bool = False

    def __repr__(self) -> str:
        """Short, since `help` shows it in signatures."""
        return f"<{self.text}>"


def rule(text: str, holds: Callable[[Any], bool], remedy: str, *, schedule: bool = False) -> Rule:
    """What a finite number must satisfy, in a signature that is `checked`.

    Args:
        text: the rule in words, as in "must be ...".
        holds: whether a number satisfies it.
        remedy: what to write instead.
        schedule: whether a schedule, a function of the step, may stand in its place.

    Returns:
        What stands in the annotation: `Annotated[Number, rule(...)]`.

    Raises:
        TypeError: another number of arguments.

    Examples:
        >>> from typing import Annotated
        >>> from ewa_optax import pieces
        >>> Even = Annotated[pieces.Number, pieces.rule("even", lambda x: x % 2 == 0, "2 is the least")]
        >>> @pieces.checked
        ... def halve(number: Even):
        ...     return number / 2
        >>> halve(3)
        Traceback (most recent call last):
        ...
        ValueError: halve: number must be even, got 3; 2 is the least.
    """
    return Rule(text, lambda x: abs(x) <= sys.float_info.max and holds(x), remedy, schedule)


Decay = Annotated[
    Number,
    rule(
        "in [0, 1)",
        lambda x: 0 <= x < 1,
        "a decay of 1 - 1/n averages over about n steps (0.9: 10 steps, 0.999: 1000)",
    ),
]
OpenDecay = Annotated[
    Number, rule("in (0, 1)", lambda x: 0 < x < 1, "0 would keep the newest gradient only, 0.9 averages over 10")
]
Epsilon = Annotated[Number, rule("finite and 0 or more", lambda x: x >= 0, "1e-8 is the usual value")]
Rate = Annotated[
    optax.ScalarOrSchedule,
    rule("finite and 0 or more", lambda x: x >= 0, "updates point downhill; to climb, negate the loss", schedule=True),
]
Finite = Annotated[Number, rule("finite", lambda x: True, "1 leaves it as it is")]
Positive = Annotated[Number, rule("finite and more than 0", lambda x: x > 0, "1 changes nothing, 0.1 is a tenth")]
Whole = Annotated[
    int | jax.Array, rule("a whole number, 0 or more", lambda x: x >= 0 and x == int(x), "1 numbers epochs from 1")
]
Count = Annotated[
    int | jax.Array, rule("a whole number, 1 or more", lambda x: x >= 1 and x == int(x), "count from 1, and round up")
]


def rule_of(kind: Any) -> Rule | None:
    """The rule of an annotation, or of one of several kinds, if it has one."""
    if get_origin(kind) in (Union, UnionType):
        return next(filter(None, map(rule_of, get_args(kind))), None)
    return next((x for x in getattr(kind, "__metadata__", ()) if isinstance(x, Rule)), None)


def check(function: str, name: str, value: Any, kind: Any) -> None:
    """Raises unless `value` obeys the rule of its kind: TypeError for what is no number, ValueError for a wrong one."""
    rule = rule_of(kind)
    assert rule, kind
    if isinstance(value, np.ndarray | np.generic) and value.shape == ():
        value = value.item()
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not rule.holds(value):
            raise ValueError(f"{function}: {name} must be {rule.text}, got {value!r}; {rule.remedy}.")
    elif isinstance(value, jax.Array | np.ndarray) and jnp.isrealobj(value) and jnp.issubdtype(value.dtype, jnp.number):
        if value.shape != ():
            raise ValueError(
                f"{function}: {name} must be a scalar, got an array of shape {value.shape}; "
                "for one run per value use jax.vmap."
            )
    elif rule.accepts_schedule and isinstance(value, type):
        raise TypeError(
            f"{function}: {name} must be a number, a scalar array or a schedule, got the class {value.__name__}; "
            "a dtype of averages, optax's mu_dtype, is storage=('bfloat16', None) here."
        )
    elif not (rule.accepts_schedule and callable(value)):
        kinds = "a number, a scalar array or a schedule" if rule.accepts_schedule else "a number or a scalar array"
        remedy = f"it takes no schedule: {rule.remedy}" if callable(value) else rule.remedy
        raise TypeError(f"{function}: {name} must be {kinds}, got {value!r} ({type(value).__name__}); {remedy}.")


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorates a function so that a call first checks its arguments whose annotations have rules.

    Python numbers are checked; of arrays, which may be traced, only shape and kind. Words of other libraries, such as
    `beta1` for `b1`, are an error that says the word here.

    Args:
        function: with annotations such as `pieces.Decay`, or made by `pieces.rule`.

    Returns:
        The function, checked.

    Raises:
        ValueError: by a call, for a number that breaks its rule, or an array that is no scalar.
        TypeError: by a call, for what is no number, or a word that the function does not have.

    Examples:
        >>> from ewa_optax import pieces
        >>> @pieces.checked
        ... def mine(learning_rate: pieces.Rate, decay: pieces.Decay = 0.9):
        ...     rate = pieces.scale_by_learning_rate(learning_rate)
        ...     return pieces.optimizer(pieces.scale_by_ewa(decay), rate, guard=pieces.saturate())
        >>> mine(0.1, beta=0.9)
        Traceback (most recent call last):
        ...
        TypeError: mine has no argument beta; it is decay here.
    """
    signature = inspect.signature(function, eval_str=True)
    kinds = {name: x for name, x in signature.parameters.items() if rule_of(x.annotation)}

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            _check_words(function.__name__, signature.parameters, kwargs)
            return function(*args, **kwargs)  # Whose own error names the function and the argument.
        bound.apply_defaults()
        for name, parameter in kinds.items():
            for value in _values(parameter, bound.arguments[name]):
                if value is not None or type(None) not in get_args(parameter.annotation):
                    check(function.__name__, name, value, parameter.annotation)
        return function(*args, **kwargs)

    return call


def _values(parameter, given):
    """What stands for a parameter: one value, but any number of them for `*args` and `**kwargs`."""
    if parameter.kind is parameter.VAR_KEYWORD:
        return given.values()
    return given if parameter.kind is parameter.VAR_POSITIONAL else (given,)


def _here(name: str) -> tuple[set[str], str]:
    """For functions that have this argument, that it is meant."""
    return {name}, f"it is {name} here"


_HERE = {
    "lr": "learning_rate", "alpha0": "init_value", "beta": "decay", "rho": "decay", "epsilon": "eps",
    "beta1": "b1", "beta_1": "b1", "beta3": "b3", "beta_3": "b3",
    "wd": "weight_decay", "bias_correction": "debias", "ns_steps": "steps", "ns_coeffs": "coefficients",
    "ns_coefficients": "coefficients", "adjust_lr_fn": "rule",
}  # fmt: skip

WORDS: dict[str, tuple[tuple[set[str], str], ...]] = {
    **{word: (_here(name),) for word, name in _HERE.items()},
    "alpha": (
        ({"decay", "times"}, "decay=1 - alpha is the same"),
        ({"decay", "learning_rate"}, "the course's is learning_rate here, torch's is decay"),
        _here("learning_rate"),
        _here("decay"),
    ),
    # The decay of what also has an eps is of squares.
    "momentum": (({"decay", "eps"}, "rmsprop_momentum has one"), _here("decay"), _here("b1")),
    **dict.fromkeys(("beta2", "beta_2"), (_here("b2"), ({"decay", "eps"}, "it is decay here"))),
    "betas": (({"b1", "b2"}, "it is b1 and b2 here"),),
    **dict.fromkeys(
        ("mu_dtype", "accumulator_dtype"),
        (({"storage"}, "it is storage='bfloat16' or, of two moments, storage=('bfloat16', None) here"),),
    ),
    "nesterov": (
        ({"coefficients"}, "its momentum is always Nesterov's"),
        (set(), "Nesterov's momentum is an optimizer of its own: nesterov, nadam, nadamw"),
    ),
    "amsgrad": ((set(), "it is an optimizer of its own: amsgrad"),),
    "centered": ((set(), "it is an optimizer of its own: rmsprop_centered"),),
    "decoupled": ((set(), "adamw has decoupled weight decay"),),
    # Of averages of series, which alone have times: pandas'.
    "halflife": (({"times"}, "write decay=series.decay_from_half_life(halflife)"), _here("half_life")),
    "span": (({"times"}, "write decay=series.decay_from_span(span)"),),
    "com": (({"times"}, "write decay=series.decay_from_center_of_mass(com)"), _here("center_of_mass")),
    "adjust": (
        ({"times", "initial"}, "adjust=False is debias=False, initial=x[0] here"),
        ({"times"}, "adjust=False is debias=False here"),
    ),
    "ignore_na": (({"times"}, "ignore_na=True is missing='skip' here"),),
    "min_periods": (({"times"}, "mask what comes too early, as in 'Coming from pandas'"),),
    "params": ((set(), "optimizers get parameters later: optimizer.init(params)"),),
}
"""Of words of other libraries, what to say to functions that have all of these arguments, the likeliest first."""


def _check_words(function, parameters, given):
    """TypeError for a word that other libraries have for one of the parameters, or for an optimizer of its own."""
    for word in given:
        for needed, said in WORDS.get(word, ()) if word not in parameters else ():
            if parameters.keys() >= needed:
                raise TypeError(f"{function} has no argument {word}; {said}.")


LARGEST = 2**31 - 1


def check_integer(name: str, value: Any, least: int, most: int = LARGEST, remedy: str = "") -> int:
    """The integer itself; TypeError for what is none, ValueError for one outside `least` to `most`.

    The most, by default, is what an int32 holds: what JAX counts by.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__}); {remedy}.")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, got {value}; {remedy}.")
    return int(value)


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if not any(value is choice or value == choice for choice in choices):
        raise ValueError(f"{name} must be one of {choices}, got {value!r}; choose one of them.")


def check_key(key: Any) -> None:
    """Raises unless `key` is one `jax.random` key, new style or old: TypeError for no key, ValueError for several."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and not (isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32):
        kind = f"{key.dtype} array" if isinstance(key, jax.Array | np.ndarray) else type(key).__name__
        raise TypeError(f"key must be a jax.random key, got {key!r} ({kind}); make one: jax.random.key(0).")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be one key, got an array of shape {key.shape}; use jax.vmap for one run per key.")


def check_dtypes(name: str, tree: Any, kind: Any, remedy: str) -> None:
    """Raises TypeError unless all leaves, numbers of Python among them, are `jnp.floating` or of another such kind."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = leaf.dtype if hasattr(leaf, "dtype") else type(leaf)
        if not (hasattr(leaf, "dtype") or dtype in (float, complex)) or not jnp.issubdtype(dtype, kind):
            words = "floats" if kind == jnp.floating else "floats or complex numbers"
            got = getattr(dtype, "__name__", dtype)
            raise TypeError(f"{name}{jax.tree_util.keystr(path)} must be of {words}, got {got}; {remedy}.")


def check_trainable(params: Any) -> None:
    """Raises TypeError for what has no gradient."""
    remedy = "such as by eqx.partition(model, eqx.is_inexact_array) or nnx.split"
    check_dtypes("params", params, jnp.inexact, f"keep what is not trained outside of params, {remedy}")


def check_function(name: str, value: Any, remedy: str) -> None:
    """Raises TypeError unless `value` is a function that can key a cache of compiled programs."""
    if not callable(value) or getattr(value, "__hash__", None) is None:
        kind = "function that can be hashed" if callable(value) else "function"
        raise TypeError(f"{name} must be a {kind}, got {value!r} ({type(value).__name__}); write {remedy}.")


def check_functions(loss: Any, optimizer: Any) -> None:
    """Raises TypeError unless they are a function and a gradient transformation."""
    check_function("loss", loss, "def loss(params, batch)")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation, got {optimizer!r} ({type(optimizer).__name__}); "
            "make one, such as ewa_optax.adam(1e-3)."
        )


def check_callbacks(callbacks: Any) -> None:
    """Raises TypeError unless they are a sequence of functions."""
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(
            f"callbacks must be a sequence of functions, got {callbacks!r}; put one in brackets: [callback]."
        )


def transformation(
    function: str, name: str, piece: Any, such_as: str = "scale_by_ewa(0.9)"
) -> optax.GradientTransformationExtraArgs:
    """The piece, which takes extra arguments; TypeError for what is no transformation."""
    if not isinstance(piece, optax.GradientTransformation):
        raise TypeError(f"{function}: {name} must be a transformation, got {piece!r}; try {such_as}.")
    return optax.with_extra_args_support(piece)


def check_pattern(what: str, pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    """The compiled pattern; ValueError where it is no regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{what} must be a regular expression, got {pattern!r} ({error}); re.escape makes one of a path."
        ) from error
