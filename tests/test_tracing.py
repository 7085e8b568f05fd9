"""What Python has to trace, which is exact: equations, by program and by function of one leaf."""

import contextlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import EVERY

import ewa_optax
from benchmarks import trees

GPT2 = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in trees.gpt2().items()}


def functions_within(jaxpr, found):
    """The jaxprs that one calls, at any depth, each once."""
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns") and id(inner) not in found:
                found[id(inner)] = inner
                functions_within(inner, found)
    return found


def traced(optimizer, params):
    """The equations of an update, and those of the functions that it calls, each counted once."""
    state = jax.eval_shape(optimizer.init, params)
    jaxpr = jax.jit(optimizer.update).trace(params, state, params).jaxpr.jaxpr
    return jaxpr.eqns, [x for inner in functions_within(jaxpr, {}).values() for x in inner.eqns]


def leaves(count):
    """Of two shapes, both large enough for a storage."""
    return {f"{i}": jnp.zeros((64, 64 + i % 2)) for i in range(count)}


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_an_update_of_gpt2_has_at_most_two_equations_a_leaf_more_than_that_of_optax(name):
    (ours, functions), (theirs, _) = (traced(getattr(x, name)(1e-3), GPT2) for x in (ewa_optax, optax))
    assert len(ours) + len(functions) <= len(theirs) + 2 * len(GPT2)
    assert len(ours) <= 0.5 * len(theirs)


@pytest.mark.parametrize(("storage", "most", "with_functions"), [("bfloat16", 1.5, 2.0), ("8bit", 2.5, 2.8)])
def test_storages_trace_little_more_than_float32(storage, most, with_functions):
    (kept, functions), (full, fulls) = (traced(ewa_optax.adam(1e-3, storage=x), GPT2) for x in (storage, None))
    assert len(kept) <= most * len(full)
    assert len(kept) + len(functions) <= with_functions * (len(full) + len(fulls))


def half(params):
    return {key: int(key) % 4 < 2 for key in params}


def made(name, storage):
    takes = inspect.signature(EVERY[name]).parameters
    keywords = dict(weight_decay=0.1, mask=half) if "mask" in takes else {}
    return EVERY[name](0.1, **(keywords | (dict(storage=storage) if storage else {})))


STORED = [name for name, optimizer in EVERY.items() if "storage" in inspect.signature(optimizer).parameters]
# Scalars, besides the keys of chance: an average of each array; optax.scale_by_schedule, which converts for each leaf.
OF_EACH_LEAF = {"novograd", "ademamix"}
EACH = [*((name, None) for name in EVERY), *((name, "8bit") for name in STORED)]
EACH += [("adam", storage) for storage in ("bfloat16", "float16", "24bit")]


@pytest.mark.parametrize(("name", "storage"), EACH)
def test_a_function_of_a_leaf_is_traced_once_for_each_shape(name, storage):
    """So twelve leaves of two shapes have the equations of four, but for a few calls each."""
    (few, functions), (many, more) = (
        traced(made(name, storage), {key: x for key, x in leaves(12).items() if int(key) in kept})
        for kept in (range(4), range(12))
    )
    assert len(more) == len(functions)
    # Those in which a number of the step has no leaf in it are the same for any number of leaves.
    scalars, more_scalars = (
        sum(all(x.aval.shape == () for x in (*equation.invars, *equation.outvars)) for equation in equations)
        for equations in (few, many)
    )
    assert more_scalars == scalars or storage or name in OF_EACH_LEAF
    assert len(many) - len(few) <= 8 * ((26 if storage else 13) + 6 * (name == "soap"))  # Of two sides, too.


@pytest.mark.parametrize("storage", [None, "8bit"])
def test_stacks_of_more_leaves_trace_no_more(storage):
    few, many = (traced(made("adam", storage), ewa_optax.stack_leaves(leaves(count))) for count in (4, 12))
    assert [len(x) for x in few] == [len(x) for x in many]


@contextlib.contextmanager
def programs():
    """How many are compiled, counted as they are."""
    found = []

    def compiled(event, duration, **_):
        found.extend([event] if event.endswith("backend_compile_duration") else [])

    jax.monitoring.register_event_duration_secs_listener(compiled)
    yield found
    jax.monitoring.unregister_event_duration_listener(compiled)


@pytest.mark.parametrize("storage", [None, "8bit"])
def test_outside_of_jit_each_shape_compiles_its_functions_once(storage):
    """Also when the optimizer is made anew, as `optax.inject_hyperparams` does at every step."""
    params = {key: np.zeros(x.shape, np.float32) for key, x in leaves(12).items()}

    def step(optimizer, kept):
        some = {key: x for key, x in params.items() if int(key) in kept}
        optimizer.update(some, optimizer.init(some), some)

    def optimizer():
        return ewa_optax.adam(jnp.float32(0.1), b1=jnp.float32(0.9), storage=storage)

    jax.clear_caches()
    with programs() as found:
        step(optimizer(), range(2))
    assert found
    with programs() as found:
        step(optimizer(), range(12))
    assert not found
