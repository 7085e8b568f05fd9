"""The order of an epoch: exact, and by every count as random as a permutation."""

import functools
import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ewa_optax import minibatch
from ewa_optax.minibatch import _order

KINDS = ["permutation", "bijection"]


@functools.partial(jax.jit, static_argnames="rounds")
def indices_of(positions, key, n, a, b, rounds):
    """The bijection with its size for an argument, so that thousands of sizes compile once."""
    order_key, _ = _order.epoch_keys(key, 0)
    return _order._bijection(positions, jax.random.bits(order_key, (rounds,), jnp.uint32), n, a, b)


def evaluate(positions, key, n):
    """As above, for positions beyond n too, which are folded back."""
    sizes = map(np.uint32, (n, *_order._grid(n)))
    return np.asarray(indices_of(np.uint32(positions % n), key, *sizes, rounds=_order._rounds(n)))


def test_it_takes_every_example_once_for_all_sizes():
    """With the rounds of large sizes, so that all are one program; those of small sizes are below."""
    sizes = np.arange(1, 1001)
    grids = np.array([_order._grid(int(n)) for n in sizes], np.uint32)
    positions = np.uint32(np.arange(1000) % sizes[:, None])
    all_sizes = jax.jit(jax.vmap(functools.partial(indices_of, rounds=6)))
    found = np.asarray(all_sizes(positions, jax.random.split(jax.random.key(0), 1000), np.uint32(sizes), *grids.T))
    for n, indices in zip(sizes, found, strict=True):
        assert np.array_equal(np.bincount(indices[:n], minlength=n), np.ones(n)), n


@pytest.mark.slow
@pytest.mark.parametrize("largest", [1000, 5000])
def test_it_takes_every_example_once_for_all_sizes_with_their_rounds(largest):
    positions = np.arange(largest)
    for n in range(1, largest + 1):
        indices = evaluate(positions, jax.random.key(n), n)[:n]
        assert np.array_equal(np.bincount(indices, minlength=n), np.ones(n)), n


MORE_SIZES = [(n, kind) for n in (2, 5, 1000, 1024, 65_537) for kind in KINDS]
MORE_SIZES += [(64, "bijection"), *((n, "permutation") for n in (1, 3, 4097))]


@pytest.mark.parametrize(
    ("n", "kind"),
    [
        *((n, "bijection") for n in (1, 3, 4097)),
        (64, "permutation"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_SIZES),
    ],
)
def test_the_public_order_takes_every_example_once(n, kind):
    order = minibatch.order(n, key=jax.random.key(n), kind=kind)
    assert len(order) == n
    indices = order[np.arange(n)]
    assert indices.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(indices), np.arange(n))
    if kind == "bijection":
        assert inverse(indices.tolist(), order.keys.tolist(), n) == list(range(n))


def inverse(indices, keys, n):
    """Whose position an index is, by Python's integers, from the formula in the docstring."""
    a = math.isqrt(n - 1) + 1
    a += a % 2
    b = -(-n // a)

    def scrambled(x, key):
        x = (x ^ key) * 0x9E3779B1 % 2**32
        x = (x ^ (x >> 15)) * 0x85EBCA77 % 2**32
        return x ^ (x >> 13)

    def back(cell):
        left, right = divmod(cell, b)
        for i in range(len(keys) - 2, -1, -2):
            right = (right - (scrambled(left, keys[i + 1]) * b >> 32)) % b
            left = (left - (scrambled(right, keys[i]) * a >> 32)) % a
        return left * b + right

    positions = []
    for cell in indices:
        cell = back(cell)
        while cell >= n:
            cell = back(cell)
        positions.append(cell)
    return positions


@pytest.mark.parametrize(
    ("smallest", "count"), [(2**15, 40), *(pytest.param(1, count, marks=pytest.mark.slow) for count in (40, 200))]
)
def test_it_is_the_formula_and_has_an_inverse_for_sizes_up_to_the_largest(smallest, count):
    """Sizes from 2**15 on have the same number of rounds, and so one program."""
    rng = np.random.default_rng(0)
    sizes = [
        2**31 - 1,
        2**31 - 2,
        46340**2 - 1,
        46340**2,
        46340**2 + 1,
        *np.exp(rng.uniform(np.log(smallest), np.log(2**31 - 1), count)).astype(int),
    ]
    for n in map(int, sizes):
        key = jax.random.key(n % 1000)
        positions = rng.integers(0, n, 50)
        indices = evaluate(positions, key, n).tolist()
        assert max(indices) < n
        keys = minibatch.order(n, key=key, kind="bijection").keys.tolist()
        assert inverse(indices, keys, n) == positions.tolist(), n


def test_it_is_random_access_and_stores_nothing():
    order = minibatch.order(2**31 - 1, key=jax.random.key(0), epoch=2)
    assert sum(x.nbytes for x in jax.tree.leaves(order)) == 6 * 4
    some = np.array([0, 5, 2**31 - 2])
    np.testing.assert_array_equal(order[some], [order[int(i)] for i in some])
    np.testing.assert_array_equal(jax.jit(lambda order: order[some])(order), order[some])
    temporary = jax.jit(lambda order: order[jnp.arange(1000)]).lower(order).compile().memory_analysis()
    assert temporary.temp_size_in_bytes < 100_000


def test_the_default_is_the_bijection_from_512_examples_on():
    for n, kind in [(511, "permutation"), (512, "bijection")]:
        by_default, named = (minibatch.order(n, key=jax.random.key(0), kind=k)[np.arange(64)] for k in (None, kind))
        np.testing.assert_array_equal(by_default, named)


@pytest.mark.parametrize("kind", KINDS)
def test_key_and_epoch_decide_it_and_may_be_traced(kind):
    def indices(key, epoch):
        return minibatch.order(64, key=key, epoch=epoch, kind=kind)[np.arange(64)]

    keys = [jax.random.key(i) for i in range(4)]
    together = jax.jit(jax.vmap(indices))(jnp.stack(keys[:3]), np.arange(3))
    for i in range(3):
        np.testing.assert_array_equal(together[i], indices(keys[i], i))
    assert not np.array_equal(indices(keys[0], 0), indices(keys[0], 1))
    np.testing.assert_array_equal(indices(keys[3], 1), indices(jax.random.PRNGKey(3), 1))


# How random it is. Every statistic is also taken of `jax.random.permutation`.


@functools.cache
def order_of(kind, n):
    return jax.jit(
        jax.vmap(
            lambda key, epoch: minibatch.order(n, key=key, epoch=epoch, kind=kind)[jnp.arange(n)], in_axes=(0, None)
        )
    )


@pytest.fixture(autouse=True, scope="module")
def _programs_are_dropped():
    yield
    order_of.cache_clear()


def orders(kind, n, count, epochs=(0,)):
    """Orders by as many keys, some thousand at a time."""
    keys = jax.random.split(jax.random.key(1), count)
    size = max(1, 4_000_000 // n)
    for start in range(0, count, size):
        yield [np.asarray(order_of(kind, n)(keys[start : start + size], epoch)) for epoch in epochs]


def chi_square(observed, expected):
    """Per degree of freedom."""
    return ((observed - expected) ** 2 / expected).sum() / (observed.size - 1)


def bins(n):
    """Which of up to 64 bins each of n numbers is in, and their sizes."""
    bin_of = np.arange(n) * min(n, 64) // n
    return bin_of, np.bincount(bin_of)


def pairs(first, second, count):
    return np.bincount((first.astype(np.int64) * count + second).ravel(), minlength=count**2).reshape(count, count)


def statistics(kind, n, count):
    bin_of, sizes = bins(n)
    m, column = len(sizes), _order._grid(n)[1]
    position, neighbours, epochs = np.zeros((m, m)), np.zeros((m, m)), np.zeros((m, m))
    lags = {1: np.zeros(n), column: np.zeros(n)}
    fixed, means = [], {"sorted": [], "periodic": []}
    labels = {"sorted": np.arange(n) / n, "periodic": (np.arange(n) % column) / column}
    for order, following in orders(kind, n, count, (0, 1)):
        position += pairs(np.broadcast_to(bin_of, order.shape), bin_of[order], m)
        neighbours += pairs(bin_of[order[:, :-1]], bin_of[order[:, 1:]], m)
        epochs += pairs(bin_of[order], bin_of[following], m)
        for lag, counts in lags.items():
            counts += np.bincount(((order[:, lag:] - order[:, :-lag]) % n).ravel(), minlength=n)
        fixed.append((order == np.arange(n)).sum(axis=1))
        for name, label in labels.items():
            means[name].append(label[order[:, : n // 64 * 64]].reshape(-1, 64).mean(axis=1))
    both = np.outer(sizes, sizes)
    found = {
        "position": chi_square(position, both / n * count),
        "adjacent pairs": chi_square(neighbours, (both - np.diag(sizes)) / n * count),
        "epochs": chi_square(epochs, both / n * count),
        "lag 1": chi_square(lags[1][1:], lags[1].sum() / (n - 1)),
        "lag column": chi_square(lags[column][1:], lags[column].sum() / (n - 1)),
    }
    poisson = np.array([math.exp(-1) / math.factorial(k) for k in range(5)])
    counts = np.bincount(np.minimum(np.concatenate(fixed), 5), minlength=6)
    found["fixed points"] = chi_square(counts, np.append(poisson, 1 - poisson.sum()) * count)
    for name, values in means.items():
        expected = labels[name].var() / 64 * (n - 64) / (n - 1)
        found[f"variance of means, {name}"] = np.concatenate(values).var() / expected
    return found


DEGREES = {"position": 63**2, "adjacent pairs": 63**2, "epochs": 63**2, "fixed points": 5}


@pytest.mark.parametrize(
    ("n", "count"),
    [
        (1000, 1000),
        pytest.param(4099, 1000, marks=pytest.mark.slow),
        pytest.param(1000, 10_000, marks=pytest.mark.slow),
        pytest.param(4099, 10_000, marks=pytest.mark.slow),
        pytest.param(65_537, 10_000, marks=pytest.mark.slow),
    ],
)
def test_it_is_as_random_as_a_permutation(n, count):
    # Sorts take long, and a tenth of the keys gives the same chi-square per degree of freedom.
    theirs = statistics("permutation", n, count // 10)
    ours = statistics("bijection", n, count)
    for name, value in ours.items():
        if name.startswith("variance"):
            tolerance = 5 * math.sqrt(2 / (count * (n // 64)))
            assert abs(value - 1) < tolerance, (name, value)
            assert abs(theirs[name] - 1) < 4 * tolerance, (name, theirs[name])
        else:
            degrees = DEGREES.get(name, n - 2)
            assert value < 1 + 5 * math.sqrt(2 / degrees), (name, value)
            assert value < theirs[name] + 5 * math.sqrt(4 / degrees), (name, value, theirs[name])
    if n > 4096:
        assert ours["lag 1"] < 1.1
        assert ours["lag column"] < 1.1


def cycles(orders):
    """How many each has: of each cycle, the smallest is the smallest of all that it leads to."""
    smallest = np.broadcast_to(np.arange(orders.shape[1]), orders.shape)
    for _ in range(orders.shape[1].bit_length()):
        smallest = np.minimum(smallest, np.take_along_axis(smallest, orders, 1))
        orders = np.take_along_axis(orders, orders, 1)
    return (smallest == np.arange(orders.shape[1])).sum(axis=1)


@pytest.mark.parametrize(
    ("n", "count", "kind"),  # 9 and 225: squares of odd numbers.
    [
        (9, 10_000, "bijection"),
        (1000, 2000, "bijection"),
        *(pytest.param(n, 10_000, kind, marks=pytest.mark.slow) for n in (16, 225, 257) for kind in KINDS),
        pytest.param(9, 10_000, "permutation", marks=pytest.mark.slow),
    ],
)
def test_cycles_are_as_many_as_of_a_permutation(n, count, kind):
    numbers = np.concatenate([cycles(chunk) for (chunk,) in orders(kind, n, count)])
    harmonic = np.array([1 / k for k in range(1, n + 1)])
    mean, variance = harmonic.sum(), (harmonic - harmonic**2).sum()
    assert abs(numbers.mean() - mean) < 5 * math.sqrt(variance / count)
    assert abs(numbers.var() / variance - 1) < 0.1
    assert abs((numbers % 2).mean() - 0.5) < 5 * math.sqrt(0.25 / count)  # Even and odd permutations alike.


@pytest.mark.parametrize("kind", ["bijection", pytest.param("permutation", marks=pytest.mark.slow)])
def test_all_orders_of_five_are_equally_likely(kind):
    ((chunk,),) = orders(kind, 5, 10_000)
    codes = np.unique(chunk @ 5 ** np.arange(5), return_counts=True)[1]
    assert len(codes) == 120
    assert chi_square(codes, 10_000 / 120) < 1 + 5 * math.sqrt(2 / 119)


@pytest.mark.parametrize(
    ("n", "kind"),
    [(1000, "bijection"), *(pytest.param(4099, kind, marks=pytest.mark.slow) for kind in ("bijection", "permutation"))],
)
def test_near_keys_have_unrelated_orders(n, kind):
    count = 2000
    bin_of, sizes = bins(n)
    table = np.asarray(order_of(kind, n)(jax.vmap(jax.random.key)(np.arange(count)), 0))
    found = pairs(bin_of[table[:-1]], bin_of[table[1:]], len(sizes))
    assert chi_square(found, np.outer(sizes, sizes) / n * (count - 1)) < 1 + 5 * math.sqrt(2 / 63**2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(num_examples=0), ValueError, "num_examples must be from 1 to 2147483647, got 0"),
        (dict(num_examples=2**31), ValueError, "got 2147483648; split larger data in parts"),
        (dict(num_examples=2.0), TypeError, "num_examples must be an integer, got 2.0"),
        (dict(key=0), TypeError, r"key must be a jax.random key, got 0 \(int\); make one"),
        (dict(key=jnp.zeros(2)), TypeError, "float32 array"),
        (dict(key=jax.random.split(jax.random.key(0))), ValueError, r"one key, got an array of shape \(2,\)"),
        (dict(kind="sort"), ValueError, "kind must be one of .*, got 'sort'"),
        (dict(epoch=-1), ValueError, "epoch must be from 0"),
        (dict(epoch=1.5), TypeError, "epoch must be an integer, got 1.5"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"num_examples": 10, "key": jax.random.key(0), **arguments}
    with pytest.raises(error, match=message):
        minibatch.order(arguments.pop("num_examples"), **arguments)


def test_bad_positions():
    order = minibatch.order(10, key=jax.random.key(0))
    with pytest.raises(IndexError, match="positions must be from 0 to 9, got -1 to 3"):
        order[np.array([3, -1])]
    for positions, kind in ((jnp.ones(3), "float32"), (np.ones(10, bool), "bool")):
        with pytest.raises(TypeError, match=f"positions must be integers from 0 to 9, got {kind}"):
            order[positions]


@pytest.mark.parametrize("kind", KINDS)
def test_positions_may_be_lists_and_slices(kind):
    order = minibatch.order(64, key=jax.random.key(0), kind=kind)
    np.testing.assert_array_equal(order[2:5], order[[2, 3, 4]])
    np.testing.assert_array_equal(order[-3:], order[np.array([61, 62, 63])])
    np.testing.assert_array_equal(np.asarray(order), order[np.arange(64)])
    assert order[[]].shape == (0,)


def test_a_slice_of_a_large_order_is_not_taken_from_a_large_array():
    tracemalloc.start()
    minibatch.order(2**31 - 1, key=jax.random.key(0))[:10]
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


def test_outside_of_jit_it_compiles_once():
    order = minibatch.order(777, key=jax.random.key(0), kind="bijection")
    before = _order._indices._cache_size()
    for epoch in range(3):
        minibatch.order(777, key=jax.random.key(0), epoch=epoch, kind="bijection")[np.arange(5)]
        order[np.arange(5) + epoch]
    assert _order._indices._cache_size() == before + 1
