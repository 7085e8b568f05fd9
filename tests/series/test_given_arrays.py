"""What users give for arrays: integers of every size, lists, masked arrays, frames; one shape, so one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers import ROUGHLY

from ewa_optax import series

MASKED = np.ma.masked
NAN = np.nan


def average(x, **keywords):
    return series.ewa(x, 0.5, **keywords)


def mean_of(*values):
    """What all three averages are, of floats."""
    return average(np.array(values, np.float64))


INTEGERS = [
    *(np.array([0, 1, np.iinfo(kind).max]).astype(kind) for kind in (np.int8, np.uint8, np.int16, np.uint16)),
    *(np.array([0, 1, np.iinfo(kind).max], kind) for kind in (np.int32, np.uint32, np.int64, np.uint64)),
    *(np.array([np.iinfo(kind).min, 0, 5], kind) for kind in (np.int32, np.int64)),
    np.array([3_000_000_000] * 3),
    [2**31, 2**63, 2**40],
    (2**70, 1, -(2**70)),
    np.array([2**70, 1, 2], object),
    np.array([True, False, True]),
]


@pytest.mark.parametrize("x", INTEGERS, ids=lambda x: str(getattr(x, "dtype", x)))
def test_integers_count_as_floats(x):
    expected = mean_of(*(float(each) for each in x))
    assert expected.dtype == jnp.float32
    np.testing.assert_array_equal(average(x), expected)
    if isinstance(x, np.ndarray):
        np.testing.assert_array_equal(average({"a": [x]})["a"][0], expected)


def test_integers_wrap_nowhere():
    large, right = np.array([3_000_000_000, 2**40, 2**62]), mean_of(3e9, 2.0**40, 2.0**62)
    np.testing.assert_array_equal(jax.jit(lambda: average(large), compiler_options=ROUGHLY)(), right)
    np.testing.assert_array_equal(average({"a": 1.0 * large, "b": [large]})["b"][0], right)
    np.testing.assert_array_equal(average(pd.Series(large)), right)
    np.testing.assert_array_equal(average(pd.DataFrame({"a": large}))[:, 0], right)
    for initial in (2**40, np.int64(2**40), np.array(2**40), np.uint64(2**40)):
        np.testing.assert_array_equal(average(large, initial=initial), average(large, initial=2.0**40))


def test_what_is_masked_is_missing():
    right = mean_of(1, NAN, 4)
    np.testing.assert_allclose(right, [1, 1, 3.4], rtol=1e-6)
    garbage = np.ma.array([1, 99, 4], mask=[0, 1, 0])
    masked = [garbage, garbage.astype(float), garbage.astype(np.uint8), [1, MASKED, 4.0], garbage.astype(np.float32)]
    for x in (*masked, pd.Series([1, None, 4], dtype="Int64")):
        np.testing.assert_array_equal(average(x), right)
    np.testing.assert_array_equal(average({"a": garbage})["a"], right)
    np.testing.assert_array_equal(average(np.ma.array([1, 2, 4])), mean_of(1, 2, 4))
    assert jax.eval_shape(lambda: average(garbage.astype(np.float16))).dtype == jnp.float16


def test_a_mask_holds_beside_where():
    right, everywhere = mean_of(1, NAN, 4), [True, True, True]
    masked = np.ma.array([1.0, 99, 4], mask=[0, 1, 0])
    found = [
        average(masked, where=everywhere),
        average({"a": masked}, where=everywhere)["a"],
        average([1, 99, 4], where=np.ma.array(everywhere, mask=[0, 1, 0])),
        average([1, 99, 4], where=[True, False, True]),
        average(masked, where=jnp.array(everywhere)),
    ]
    for each in found:
        np.testing.assert_array_equal(each, right)
    x, y = np.ma.array([1.0, 99, 4, 9], mask=[0, 1, 0, 0]), np.ma.array([1.0, 2, 99, 7], mask=[0, 0, 1, 0])
    pairs = np.array([1, NAN, NAN, 9]), np.array([1, NAN, NAN, 7])
    np.testing.assert_array_equal(
        series.ewa_cov(x, y, 0.5, where=np.full(4, True)), series.ewa_cov(*pairs, 0.5, where=~np.isnan(pairs[0]))
    )


def test_lists_of_numbers_are_arrays_everywhere():
    right = mean_of(1, 2, 4)
    for x in ([1, 2, 4], (1.0, 2.0, 4.0), [np.float32(1), 2, 4], [jnp.float32(1), 2, np.array(4)]):
        np.testing.assert_array_equal(average(x), right)
    np.testing.assert_array_equal(average({"a": [1, 2, 4]})["a"], right)
    np.testing.assert_array_equal(average([np.array([1, 2, 4]), np.array([1.0, 2, 4])])[1], right)
    x = np.ones((3, 2))
    for initial, right in (([3, 5], [3.0, 5]), (np.ma.array([3, 5], mask=[0, 1]), [3, NAN]), ([3, MASKED], [3, NAN])):
        np.testing.assert_array_equal(average(x, initial=initial), average(x.tolist(), initial=np.array(right)))
    by_place = average([x, x], initial=[[1.0, 2.0], 3.0])
    np.testing.assert_array_equal(by_place[0], average(x, initial=[1, 2]))
    np.testing.assert_array_equal(by_place[1], average(x, initial=[3, 3]))
    by_branch = average((x, [x, x]), initial=(2.0, 3.0))[1]
    np.testing.assert_array_equal(by_branch, [by_place[1]] * 2)
    state = series.ewa_with_state([1, 2, 4], 0.5)[1]
    found, after = series.ewa_with_state([], 0.5, state)
    assert found.shape == (0,)
    assert after.average == state.average
