"""Taking over a training: what one optimizer has learned, as the state of another one."""

import copy
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import optax

from ewa_optax._states.accumulated import of_multi_steps, to_multi_steps
from ewa_optax._states.averages import Change, carried, places_of, rows_of
from ewa_optax._states.checks import (
    check_equal,
    check_has_params,
    check_is_one,
    check_is_pure,
    check_number,
    check_one_rate,
)
from ewa_optax._states.decays import Decays
from ewa_optax._states.factors import carried_factors
from ewa_optax._states.forms import change, deviations, with_mean
from ewa_optax._states.parts import (
    FACTOR,
    GRADIENTS,
    OTHER,
    RATE,
    SCHEDULE,
    SQUARES,
    STEP,
    Divided,
    New,
    Part,
    filled,
    in_parts,
    is_state,
)
from ewa_optax._states.state_bytes import state_of
from ewa_optax._states.told import alike, is_kept, last_step, told_by, with_what_begins, with_what_has_begun
from ewa_optax._wrappers.accumulate import AccumulateState
from ewa_optax.storage._encoding import Encoded
from ewa_optax.storage._telling import Kept


def carry_over(state: Any, optimizer: optax.GradientTransformation, params: optax.Params) -> Any:
    r"""The state of `optimizer` with what another one has learned, to go on from there.

    From optax to this library, and back; from one storage to another; from stacks to leaves, and back. Both optimizers
    are the same algorithm with the same hyperparameters: what is kept is converted (of its bias corrected or not, a sum
    or an average), and not what it is kept for. Chains and wrappers must be the same on both sides, but for pieces that
    keep nothing, and for what a run may get on its way:

    - `watch`, `skip_spikes`, `accumulate`, `average_parameters`: where the state has none of the kind, they begin as in
      `optimizer.init(params)`, and what they are put around or behind goes on.
    - `groups`, `optax.partition`: where the state has neither, each group takes of it what its leaves have. One that
      keeps nothing, such as a frozen one, takes nothing.

    Rounded averages are rounded by chance, in the mean to what they were. How long the blocks of 8 bits are is told by
    their number: on an axis that they fill unevenly, those of a `block=` of your own may be taken for the usual ones.
    Arrays that need no change are those of `state`: donate one of the two states only.

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
        TypeError: `optimizer` is no transformation; complex averages for real parameters; variables of flax's nnx, of
            which `nnx.as_pure(optimizer.opt_state)` is the state.

    Examples:
        >>> import jax.numpy as jnp, optax, ewa_optax
        >>> w, old = jnp.ones(3), optax.adamw(1e-3)
        >>> _, state = old.update(jnp.full(3, 2.0), old.init(w), w)
        >>> print(state[0].nu)
        [0.004 0.004 0.004]
        >>> optimizer = ewa_optax.adamw(1e-3)
        >>> state = ewa_optax.carry_over(state, optimizer, w)
        >>> print(state[1].second_moment.average.round(3), state[1].second_moment.step)
        [4. 4. 4.] 1
        >>> print(ewa_optax.carry_over(state, old, w)[0].nu.round(6))
        [0.004 0.004 0.004]

    Reference:
        Kingma and Ba, "Adam", 2015, section 3: $1 - \beta^t$, the bias, which optax keeps in its averages.
    """
    state_of(optimizer, params, "carry_over")
    check_is_pure(state)
    told = told_by(optimizer, params, last_step(state))
    told = with_what_begins(told, state, lambda: optimizer.init(params))
    return with_what_has_begun(_Walk(optimizer, params).walk("", state, told))


class _Walk:
    """Through two states at once."""

    def __init__(self, optimizer, params):
        self._places: Mapping[str, Any] = places_of(params)
        self._names = frozenset(rows_of(params))
        self._divided = False
        self._decays = Decays(optimizer, jax.eval_shape(lambda params: params, params))

    def walk(self, path: str, source: Any, told: Any) -> Any:
        """What is told of, from the source."""
        if isinstance(source, optax.MultiStepsState) and isinstance(told, AccumulateState):
            source = of_multi_steps(source)
        if isinstance(source, AccumulateState) and isinstance(told, optax.MultiStepsState):
            source = to_multi_steps(path, source, told)
        if isinstance(source, Encoded) and not is_kept(told) and not is_state(told):
            return carried(path, source, Kept.as_it_is(told), Change(), None, self._places, self._divided)
        if isinstance(told, New):
            return New(told.begun, self.walk(f"{path}.inner_state", source, told.inner_state))
        if isinstance(told, Divided):
            return self._of_groups(path, source, told.partition)
        if alike(source, told):
            return self._side_by_side(path, source, told)
        if type(told) is tuple and (within := self._within(path, source, told)):
            return within
        same = type(source) is type(told) if is_state(told) else isinstance(told, dict) and isinstance(source, dict)
        if same and _is_other(path, told):
            return self._side_by_side(path, source, told)
        for x in (source, told):
            if _is_other(path, x):
                inner = hasattr(source, "inner_state")
                raise ValueError(
                    f"carry_over: {path or 'the state'} is {_named(source)}, but the optimizer has {_named(told)} "
                    "there; give it the same chain and wrappers that the state was made with"
                    f"{', or give the inner_state of that to leave it behind' if inner else ''}."
                )
        return self._by_parts(path, source, told)

    def _of_groups(self, path, source, told):
        """Of each group, its leaves."""
        for part in in_parts(path, source)[1]:
            check_has_params(part, self._names)
        walk = copy.copy(self)
        walk._divided = True
        states = {}
        for name, masked in told.inner_states.items():
            at, inner = f"{path}.inner_states[{name!r}].inner_state", masked.inner_state
            nothing = not jax.tree.leaves(inner, is_leaf=is_kept)  # As a frozen one.
            states[name] = masked._replace(inner_state=inner if nothing else walk.walk(at, source, inner))
        return told._replace(inner_states=states)

    def _within(self, path, source, told):
        """The chain, if one state in it takes all of the source, or all but what other wrappers keep; else None."""
        (apart, wanted), (taken, given) = in_parts(path, told), in_parts(path, source)
        groups = [part for part in wanted if isinstance(part.value, Divided)]
        if [part.role for part in (*given, *wanted)] == [OTHER, OTHER] and not groups:
            return filled(apart, {wanted[0]: self.walk(wanted[0].path, given[0].value, wanted[0].value)})
        if len(groups) != 1 or {part.role for part in wanted} != {OTHER} or _is_other(path, source):
            return None
        others, places = ([x for x in parts if x.role == OTHER and x not in groups] for parts in (given, wanted))
        check_number(OTHER, others, places)
        made: dict[Part, Any] = {b: self.walk(b.path, a.value, b.value) for a, b in zip(others, places, strict=True)}
        left = filled(taken, {part: optax.EmptyState() if part.role == OTHER else part.value for part in given})
        return filled(apart, {**made, groups[0]: self.walk(groups[0].path, left, groups[0].value)})

    def _side_by_side(self, path, source, told):
        if is_kept(told):
            return carried(path, source, told, Change(), None, self._places, self._divided)
        if is_state(told):
            if hasattr(told, "hyperparams"):
                return self._with_hyperparameters(path, source, told)
            fields = zip(told._fields, source, told, strict=True)
            return type(told)(*(self.walk(f"{path}.{name}", s, t) for name, s, t in fields))
        if type(told) in (tuple, list):
            return type(told)(
                self.walk(f"{path}[{i}]", s, t) for i, (s, t) in enumerate(zip(source, told, strict=True))
            )
        if isinstance(told, dict) and isinstance(source, dict):
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
        return carried(path, source, kept, Change(), None, self._places, self._divided)

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
        for parts, others in ((given, wanted), (wanted, given)):
            check_one_rate([x for x in values(parts, GRADIENTS) if x.form == "steps"], values(parts, SCHEDULE), others)
        check_equal(values(given, STEP))
        check_equal(values(given, SCHEDULE))
        means = next((part.value for part in values(given, GRADIENTS)), None)
        made: dict[Part, Any] = {}
        for role in (GRADIENTS, SQUARES, OTHER):
            theirs, ours = values(given, role), values(wanted, role)
            check_number(role, theirs, ours)
            for a, b in zip(theirs, ours, strict=True):
                if role == OTHER:
                    made[b] = self.walk(b.path, a.value, b.value)
                    continue
                made[b] = self._average(a, b, step, rate, means)
                if b.form == "with the mean":
                    mean = next(part for part in wanted if part.path == b.path.removesuffix("nu") + "mu")
                    made[b] = jax.tree.map(with_mean, made[b], made[mean])
        factors, rates = values(given, FACTOR), values(given, RATE)
        for part in wanted:
            if part.role == STEP:
                made[part] = _as(part.value, step)
            elif part.role == SCHEDULE:
                made[part] = _as(part.value, schedule)
            elif part.role in (FACTOR, RATE):
                made[part] = _as(part.value, next((x.value for x in (factors if part.role == FACTOR else rates)), None))
        if factors and not values(wanted, FACTOR):
            check_is_one(factors[0])
        return filled(apart, made)

    def _average(self, given, wanted, step, rate, means):
        if "factored" in (given.form, wanted.form):
            return carried_factors(given, wanted, step, self._places, self._divided)
        kept, source, becomes = wanted.value, given.value, change(given, wanted, step, rate, self._decays)
        if given.form == "with the mean":
            source = deviations(given, means)
        if not is_kept(kept):
            kept = Kept.as_it_is(kept)
        return carried(wanted.path, source, kept, becomes, step, self._places, self._divided)


def _is_other(path, x):
    """Whether it is no chain of averages and counts, such as what a wrapper keeps."""
    return any(part.value is x for part in in_parts(path, x)[1] if part.role == OTHER)


def _is_key(x):
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.extended)


def _named(x):
    return type(x).__name__


def _as(like, value):
    return jnp.asarray(like if value is None else value, like.dtype)
