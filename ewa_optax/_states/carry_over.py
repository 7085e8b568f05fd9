"""Taking over a training: what one optimizer has learned, as the state of another one."""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from ewa_optax._numerics import shares, squared_magnitude, weight_sum, widen
from ewa_optax._stacks import is_stacked
from ewa_optax._states.averages import Change, Computed, carried, places_of, rows_of
from ewa_optax._states.decays import Decays
from ewa_optax._states.factors import carried_factors
from ewa_optax._states.parts import (
    FACTOR,
    GRADIENTS,
    OTHER,
    RATE,
    SCHEDULE,
    SQUARES,
    STEP,
    Part,
    in_parts,
    is_state,
)
from ewa_optax._states.pruned import of_some
from ewa_optax._states.state_bytes import state_of
from ewa_optax.pieces._kept import Kept, telling
from ewa_optax.pieces._parameter_average import AverageParametersState
from ewa_optax.storage._encoding import Encoded


def carry_over(state: Any, optimizer: optax.GradientTransformation, params: optax.Params) -> Any:
    """The state of `optimizer` with what another one has learned, to go on from there.

    From optax to this library, and back; from one storage to another; from stacks to leaves, and back. Both optimizers
    are the same algorithm with the same hyperparameters: what is kept is converted (of its bias corrected or not, a sum
    or an average), and not what it is kept for. Chains and wrappers must be the same on both sides, but for pieces that
    keep nothing.

    Rounded averages are rounded by chance, in the mean to what they were. Arrays that need no change are those of
    `state`: donate one of the two states only.

    Args:
        state: the state of an optimizer of optax or of this library, or of a chain or a wrapper with some in it, after
            any number of updates.
        optimizer: the optimizer to go on with: any chain or wrapper.
        params: the parameters, in stacks if `optimizer` will see them so. Averages are put where they lie.

    Returns:
        A state like `optimizer.init(params)`. Counts of steps are those of `state`. What counts nothing, as
        `optax.sgd` with a fixed learning rate, begins at 0.

    Raises:
        ValueError: a part of the state fits nothing in that of `optimizer`, or one of these gets nothing; it is named.
        TypeError: `optimizer` is no transformation; complex averages for real parameters.

    Examples:
        >>> import jax.numpy as jnp, optax, ewa_optax
        >>> w, old = jnp.ones(3), optax.adamw(1e-3)
        >>> _, state = old.update(jnp.full(3, 2.0), old.init(w), w)
        >>> print(state[0].nu)
        [0.004 0.004 0.004]
        >>> optimizer = ewa_optax.adamw(1e-3)
        >>> state = ewa_optax.carry_over(state, optimizer, w)
        >>> print(state[1].second_moment.average, state[1].second_moment.step)
        [4. 4. 4.] 1
        >>> print(ewa_optax.carry_over(state, old, w)[0].nu)
        [0.004 0.004 0.004]

    Reference:
        Kingma and Ba, "Adam", 2015, section 3: $1 - \\beta^t$, the bias, which optax keeps in its averages.
    """
    state_of(optimizer, params, "carry_over")
    walk = _Walk(optimizer, params)
    return walk.walk("", state, _told(optimizer, params, _last_step(state)))


def _last_step(state):
    steps = [part.value for part in _all_parts(state) if part.role == SCHEDULE]
    steps += [part.value for part in _all_parts(state) if part.role == STEP]
    return jnp.asarray(steps[0] if steps else 0, jnp.int32)


def _all_parts(state):
    for x in in_parts("", state)[1]:
        if x.role == OTHER and isinstance(x.value, tuple | dict):
            inner = x.value.values() if isinstance(x.value, dict) else x.value
            yield from itertools.chain.from_iterable(map(_all_parts, inner))
        else:
            yield x


def _told(optimizer, params, step):
    """What `init` tells, as shapes; single numbers, such as rates and decays, as they are."""
    abstract = jax.eval_shape(lambda params: params, params)

    def numbers(step):
        with telling(step):
            told = optimizer.init(jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), abstract))
        leaves = jax.tree.leaves(told, is_leaf=_is_kept)
        return {i: x for i, x in enumerate(map(_single, leaves)) if x is not None}, told

    some, shapes = of_some(numbers, step)
    given, structure = jax.tree.flatten(shapes, is_leaf=_is_kept)
    found = some(step)

    def filled(x, number):
        if not _is_kept(x) or number is None:
            return x if number is None else number
        return x.with_decay(number)

    return structure.unflatten([filled(x, found.get(i)) for i, x in enumerate(given)])


def _single(x):
    """Of an average, the decay if that is an array; what is one number."""
    number = x.decay if _is_kept(x) else x
    return number if isinstance(number, jax.Array) and number.ndim == 0 else None


def _is_kept(x):
    return isinstance(x, Kept)


class _Walk:
    """Through two states at once."""

    def __init__(self, optimizer, params):
        self._places: Mapping[str, Any] = places_of(params)
        self._decays = Decays(optimizer, jax.eval_shape(lambda params: params, params))

    def walk(self, path: str, source: Any, told: Any) -> Any:
        """What is told of, from the source."""
        if _alike(source, told):
            return self._side_by_side(path, source, told)
        if (
            (is_state(told) and type(source) is type(told)) or (isinstance(told, dict) and isinstance(source, dict))
        ) and (_is_other(path, told)):
            return self._side_by_side(path, source, told)
        for x in (source, told):
            if _is_other(path, x):
                raise ValueError(
                    f"carry_over: {path or 'the state'} is {_named(source)}, but the optimizer has {_named(told)} "
                    "there; give it the same chain and wrappers that the state was made with."
                )
        return self._by_parts(path, source, told)

    def _side_by_side(self, path, source, told):
        if _is_kept(told):
            return carried(path, source, told, Change(), None, self._places)
        if is_state(told):
            if isinstance(told, optax.InjectHyperparamsState) or hasattr(told, "hyperparams"):
                return self._with_hyperparameters(path, source, told)
            fields = zip(told._fields, source, told, strict=True)
            return type(told)(*(self.walk(f"{path}.{name}", s, t) for name, s, t in fields))
        if type(told) in (tuple, list):
            return type(told)(
                self.walk(f"{path}[{i}]", s, t) for i, (s, t) in enumerate(zip(source, told, strict=True))
            )
        if isinstance(told, dict):
            if source.keys() != told.keys():
                raise ValueError(
                    f"carry_over: {path} has {sorted(map(str, source))}, but the optimizer has "
                    f"{sorted(map(str, told))} there; give it the same labels."
                )
            return type(told)({key: self.walk(f"{path}[{key!r}]", source[key], told[key]) for key in told})
        return self._as_it_is(path, source, told)

    def _as_it_is(self, path, source, told):
        leaves = jax.tree.leaves(told)
        if len(leaves) == 1 and jax.tree.structure(told) == jax.tree.structure(source) and _is_key(leaves[0]):
            return source
        kept = Kept.as_it_is(told)
        return carried(path, source, kept, Change(), None, self._places)

    def _with_hyperparameters(self, path, source, told):
        if missing := [name for name in source.hyperparams if name not in told.hyperparams]:
            raise ValueError(
                f"carry_over: {path}.hyperparams[{missing[0]!r}] found no place: the optimizer has the hyperparameters "
                f"{sorted(told.hyperparams)}; inject what it calls so, or leave it out by static_args."
            )
        mine = {name: x for name, x in told.hyperparams.items() if name not in source.hyperparams}
        taken = {name: jnp.asarray(x, told.hyperparams[name].dtype) for name, x in source.hyperparams.items()}
        self._decays.hyperparameters[path] = {**mine, **taken}
        rest = [name for name in told._fields if name != "hyperparams"]
        walked = {name: self.walk(f"{path}.{name}", getattr(source, name), getattr(told, name)) for name in rest}
        return type(told)(hyperparams={**mine, **taken}, **walked)

    def _by_parts(self, path, source, told):
        _, given = in_parts(path, source)
        apart, wanted = in_parts(path, told)

        def values(parts, *roles):
            return [part for part in parts if part.role in roles]

        steps, schedules = ([part.value for part in values(given, role)] for role in (STEP, SCHEDULE))
        step = next(iter([*steps, *schedules]), None)
        schedule = next(iter([*schedules, *steps]), None)
        rate = next((part.value for part in values([*given, *wanted], RATE)), None)
        _check_equal(path, values(given, STEP))
        _check_equal(path, values(given, SCHEDULE))
        means = next((part.value for part in values(given, GRADIENTS)), None)
        made: dict[Part, Any] = {}
        for role in (GRADIENTS, SQUARES, OTHER):
            theirs, ours = values(given, role), values(wanted, role)
            _check_number(role, theirs, ours)
            for a, b in zip(theirs, ours, strict=True):
                made[b] = (
                    self.walk(b.path, a.value, b.value) if role == OTHER else self._average(a, b, step, rate, means)
                )
            for a, b in zip(theirs, ours, strict=True):
                if b.form == "with the mean":
                    mean = next(part for part in wanted if part.path == b.path.removesuffix("nu") + "mu")
                    made[b] = jax.tree.map(_with_mean, made[b], made[mean])
        factors, rates = values(given, FACTOR), values(given, RATE)
        for part in wanted:
            if part.role == STEP:
                made[part] = _as(part.value, step)
            elif part.role == SCHEDULE:
                made[part] = _as(part.value, schedule)
            elif part.role in (FACTOR, RATE):
                made[part] = _as(part.value, next((x.value for x in (factors if part.role == FACTOR else rates)), None))
        if factors and not values(wanted, FACTOR):
            _check_is_one(factors[0])
        return _filled(apart, made)

    def _average(self, given, wanted, step, rate, means):
        if "factored" in (given.form, wanted.form):
            return carried_factors(given, wanted, step, self._places)
        kept, source, change = wanted.value, given.value, self._change(given, wanted, step, rate)
        if given.form == "with the mean":
            source = _deviations(given, means)
        if not _is_kept(kept):
            kept = Kept.as_it_is(kept)
        return carried(wanted.path, source, kept, change, step, self._places)

    def _change(self, given, wanted, step, rate):
        """Between two forms of one average, by the decay of what is to be."""
        both = given.form, wanted.form
        if both in (("raw", "corrected"), ("sum", "corrected"), ("average", "raw")):
            if step is None:
                raise ValueError(
                    f"carry_over: {wanted.path} corrects its bias, but what was given counts no steps; "
                    "its own optimizer is one without a correction."
                )
        if both == ("raw", "corrected"):
            return Change(over=self._weights(wanted, step))
        if both == ("average", "raw") and is_optax_value(wanted):
            if wanted.role == SQUARES and not self._decays.is_of_squares(wanted.path):
                return Change(power="root")  # AdaMax: here, squares are kept.
            return Change(times=self._weights(wanted, step))
        if both == ("average", "raw"):
            return Change(times=self._weights(wanted, step))
        if both == ("raw", "maximum"):
            return Change(power="square")
        if both == ("with the mean", "raw"):
            return Change(times=_number(self._decay(wanted)))
        if both == ("raw", "with the mean"):
            return Change(over=_number(self._decay(wanted)))
        newest = None if wanted.decay is None and not is_optax_value(wanted) else shares(self._decay(wanted))[1]
        if both in (("sum", "raw"), ("raw", "sum")):
            return Change(**{"times" if given.form == "sum" else "over": _number(newest)})
        if both in (("steps", "raw"), ("raw", "steps")):
            if rate is None:
                return Change(**{"times" if given.form == "steps" else "over": _number(newest)})
            times = _number(-newest / rate) if given.form == "steps" else _number(-rate / newest)
            return Change(times=times)
        return Change()

    def _weights(self, part, step):
        decay = self._decay(part)
        if not isinstance(decay, jax.core.Tracer) and float(decay) == 1:
            return None
        step = jnp.asarray(step, jnp.int32)
        return jnp.where(step == 0, 1, weight_sum(decay, jnp.maximum(step, 1)))

    def _decay(self, part):
        if not is_optax_value(part):
            return part.decay
        return self._decays.of(part.path)


def is_optax_value(part):
    """Whether a part is of optax, which tells no decay."""
    return not _is_kept(part.value)


def _deviations(given, means):
    """The mean squares less the squares of the means."""
    means = rows_of(means)

    def one(name, row):
        return Computed(row.shape, row.dtype, lambda: _without_mean(row.read(), means[name].read()))

    return {name: one(name, row) for name, row in rows_of(given.value).items()}


@jax.jit
def _without_mean(squares, mean):
    return jnp.maximum(widen(squares) - squared_magnitude(widen(mean)), 0)


@jax.jit
def _with_mean(deviations, mean):
    return (widen(deviations) + squared_magnitude(widen(mean))).astype(deviations.dtype)


def _number(x):
    return jnp.asarray(x, float)


def _alike(source, told):
    """Whether two states are of one kind, so that each part of one is that of the other."""
    if _is_kept(told):
        return not is_state(source) or isinstance(source, Encoded)
    if is_stacked(source) or is_stacked(told):
        return True
    if isinstance(source, AverageParametersState) and isinstance(told, AverageParametersState):
        return True
    if is_state(told) or type(told) in (tuple, list):
        same = type(source) is type(told) and len(source) == len(told)
        return same and all(map(_alike, source, told))
    if isinstance(told, dict):
        return isinstance(source, dict)
    return not is_state(source)


def _is_other(path, x):
    """Whether it is no chain of averages and counts, such as what a wrapper keeps."""
    return any(part.value is x for part in in_parts(path, x)[1] if part.role == OTHER)


def _is_key(x):
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.extended)


def _named(x):
    return type(x).__name__


def _as(like, value):
    return jnp.asarray(like if value is None else value, like.dtype)


def _filled(apart, made):
    def fill(x):
        return made[x] if isinstance(x, Part) else x

    filled = jax.tree.map(fill, apart, is_leaf=lambda x: isinstance(x, Part))

    def factored(x):
        # All three fields of it are one part.
        return x.v_row._replace(count=x.count) if _is_factored(x) and _is_factored(x.v_row) else x

    return jax.tree.map(factored, filled, is_leaf=_is_factored)


def _is_factored(x):
    return isinstance(x, optax.FactoredState)


def _check_equal(path, parts):
    values = [x.value for x in parts]
    if any(isinstance(x, jax.core.Tracer) for x in values):
        return
    if len({int(x) for x in values}) > 1:
        listed = ", ".join(f"{x.path} is {int(x.value)}" for x in parts)
        raise ValueError(
            f"carry_over: counts of steps of one chain differ ({listed}), and which one is meant is unclear; "
            "make them equal in the state that you give."
        )


def _check_number(role, theirs, ours):
    if len(theirs) > len(ours):
        part = theirs[len(ours)]
        raise ValueError(
            f"carry_over: {part.path}, {role} ({_named(part.value)}), found no place: the optimizer keeps "
            f"{len(ours)} of these, and the state has {len(theirs)}; give an optimizer of the same algorithm."
        )
    if len(ours) > len(theirs):
        raise ValueError(
            f"carry_over: the optimizer keeps {role} at {ours[len(theirs)].path}, but the state has only "
            f"{len(theirs)} of these; give the state of an optimizer of the same algorithm."
        )


def _check_is_one(part):
    if isinstance(part.value, jax.core.Tracer) or np.any(np.asarray(part.value) != 1):
        raise ValueError(
            f"carry_over: {part.path}, by which rescale_learning_rate multiplies learning rates, must be 1 for an "
            f"optimizer that has no such factor, got {part.value}; multiply its learning rate instead, and give a "
            "state that was rescaled back to 1."
        )
