"""Warm-up and cool-down, around any schedule: by their formulas in float64, and beside optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ewa_optax
from ewa_optax import schedule_cooldown, schedule_warmup

SHAPES = {
    "linear": (ewa_optax.shape_linear, lambda f: 1 - f),
    "cosine": (ewa_optax.shape_cosine, lambda f: (1 + np.cos(np.pi * f)) / 2),
    "1 - sqrt": (ewa_optax.shape_one_minus_sqrt, lambda f: 1 - np.sqrt(f)),
    "of one's own": (lambda f: (1 - f) ** 3, lambda f: (1 - f) ** 3),
}
# A training of one mini-batch an epoch, one of odd numbers, one by epochs that leaves off where it cools.
RUNS = [dict(warm=10, start=70, steps=30), dict(warm=7, start=3, steps=13), dict(warm=3, start=4, steps=5, by=9)]
PEAK, END = 0.3, 0.01


def inverse_time(counts, by=1):
    return PEAK / (1 + 0.01 * (1 + counts // by))


def expected(counts, inner, shape, warm, start, steps, by=1):
    """In float64, a step after the other."""
    rates = []
    for count in counts:
        fraction = min(max((count // by - start) / steps, 0), 1)
        held = inner(min(count, start * by)) * min((min(count, start * by) // by + 1) / warm, 1)
        rates.append(END + (held - END) * shape(fraction))
    return np.array(rates)


def made(shape, warm, start, steps, by=1, inner=None):
    inner = ewa_optax.schedule_inverse_time(PEAK, 0.01) if inner is None else inner
    warmed = schedule_warmup(inner, warm, steps_per_epoch=by)
    return schedule_cooldown(warmed, start, steps, END, shape, steps_per_epoch=by)


def all_counts(run):
    return np.arange((run["start"] + run["steps"] + 3) * run.get("by", 1))


@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_step_of_three_runs_is_by_the_formula(shape, x64):
    ours, oracle = SHAPES[shape]
    with jax.enable_x64(x64):
        found = jax.jit(lambda: [made(ours, **run)(all_counts(run)) for run in RUNS])()
    for run, rates in zip(RUNS, found, strict=True):
        assert rates.dtype == (jnp.float64 if x64 else jnp.float32)
        wanted = expected(all_counts(run), inverse_time, oracle, **run)
        np.testing.assert_allclose(rates, wanted, rtol=1e-14 if x64 else 2e-6)


def test_both_ends_are_exact():
    """Compiled, where a division by a constant may be another product, for lengths whose inverses are rounded."""
    lengths = (1, 3, 41, 49, 1001)
    ends = {steps: np.array([0, steps - 1, 2 * steps, 3 * steps, 3 * steps + 5]) for steps in lengths}

    def rates(steps, shape):
        return schedule_cooldown(schedule_warmup(PEAK, steps), 2 * steps, steps, END, shape)(jnp.asarray(ends[steps]))

    shapes = [ours for ours, _ in SHAPES.values()]
    compiled = jax.jit(lambda: {steps: [rates(steps, shape) for shape in shapes] for steps in lengths})()
    for steps, found in compiled.items():
        for first, *others in np.array([*found, rates(49, shapes[1])] if steps == 49 else found).tolist():
            assert others == [np.float32(PEAK)] * 2 + [np.float32(END)] * 2
            np.testing.assert_allclose(first, PEAK / steps, rtol=1e-6)


def test_all_numbers_may_be_traced_and_vmapped_in_one_trace():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def rates(peak, warm, start, steps, end, by):
        def at(peak, warm, start, steps, end):
            warmed = schedule_warmup(peak, warm, steps_per_epoch=by)
            return schedule_cooldown(warmed, start, steps, end, steps_per_epoch=by)(jnp.arange(60))

        return jax.vmap(at)(peak, warm, start, steps, end)

    peaks, warms, ends = jnp.array([0.1, 0.2, 0.3]), jnp.array([0, 5, 8]), jnp.array([0.0, 0.01, 0.5])
    starts, lengths = jnp.array([10, 20, 40]), jnp.array([30, 15, 1])
    for by in (1, 2):
        found = rates(peaks, warms, starts, lengths, ends, jnp.int32(by))
        for i, row in enumerate(found):
            warmed = schedule_warmup(float(peaks[i]), int(warms[i]), steps_per_epoch=by)
            alone = schedule_cooldown(warmed, int(starts[i]), int(lengths[i]), float(ends[i]), steps_per_epoch=by)
            np.testing.assert_allclose(row, alone(np.arange(60)), rtol=2e-6, atol=1e-8)


def test_a_shape_may_have_a_traced_number():
    def at(power):
        return schedule_cooldown(1.0, 0, 4, shape=lambda f: (1 - f) ** power)(1)

    np.testing.assert_allclose(jax.vmap(at)(jnp.array([1.0, 2.0])), [0.75, 0.75**2], rtol=1e-6)


def test_warm_up_and_cosine_are_those_of_optax_but_for_the_first_step():
    warm, total, counts = 10, 100, np.arange(110)
    cosine = ewa_optax.shape_cosine

    @jax.jit
    def rates():
        ours = schedule_warmup(schedule_cooldown(PEAK, warm, total - warm, END, cosine), warm)
        theirs = optax.warmup_cosine_decay_schedule(0.0, PEAK, warm, total, END)
        # Theirs that begins with our first rate, and ours that falls where theirs does then.
        sooner = schedule_warmup(schedule_cooldown(PEAK, warm - 1, total - (warm - 1), END, cosine), warm)
        begun = optax.warmup_cosine_decay_schedule(PEAK / warm, PEAK, warm - 1, total, END)
        return [schedule(jnp.asarray(counts)) for schedule in (ours, theirs, sooner, begun)]

    ours, theirs, sooner, begun = rates()
    np.testing.assert_allclose(ours[warm:], theirs[warm:], rtol=3e-6)
    # In the warm-up ours is a step ahead: optax's first step is one of rate 0.
    np.testing.assert_allclose(ours[:warm], theirs[1 : warm + 1], rtol=3e-6)
    assert (ours[0] > 0) & (theirs[0] == 0)
    np.testing.assert_allclose(sooner, begun, rtol=3e-6)


def test_cool_downs_are_schedules_of_optax():
    pairs = [
        (
            schedule_cooldown(PEAK, 0, 40, 0.1 * PEAK, ewa_optax.shape_cosine),
            optax.cosine_decay_schedule(PEAK, 40, 0.1),
        ),
        (schedule_cooldown(PEAK, 5, 40, END), optax.linear_schedule(PEAK, END, 40, 5)),
        (
            schedule_cooldown(schedule_warmup(PEAK, 4), 20, 8),
            optax.join_schedules([optax.linear_schedule(PEAK / 4, PEAK, 3), optax.linear_schedule(PEAK, 0, 8)], [20]),
        ),
    ]
    for ours, theirs in jax.jit(lambda: [[schedule(jnp.arange(50)) for schedule in pair] for pair in pairs])():
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-8)


def test_a_schedule_inside_goes_on_with_the_same_count():
    inner = ewa_optax.schedule_inverse_sqrt(PEAK)
    warmed, plain = jax.jit(lambda counts: (schedule_warmup(inner, 10)(counts), inner(counts)))(jnp.arange(30))
    np.testing.assert_array_equal(warmed[9:], plain[9:])
    np.testing.assert_allclose(warmed[:9], PEAK * np.arange(1, 10) ** 0.5 / 10, rtol=2e-6)
    seen = []
    schedule_cooldown(lambda count: seen.append(int(count)) or 1.0, 4, 3, steps_per_epoch=5)(22)
    schedule_cooldown(lambda count: seen.append(int(count)) or 1.0, 4, 3, steps_per_epoch=5)(17)
    assert seen == [20, 17]


def test_either_goes_around_the_other():
    inside = schedule_cooldown(schedule_warmup(PEAK, 8), 30, 20, END)
    outside = schedule_warmup(schedule_cooldown(PEAK, 30, 20, END), 8)
    found = jax.jit(lambda counts: (inside(counts), outside(counts)))(jnp.arange(60))
    np.testing.assert_allclose(*found, rtol=1e-6)


@pytest.mark.parametrize(
    "count", [2**31 - 1, np.uint8(255), np.int8(127), np.int32(2**31 - 1), jnp.int32(2**31 - 1), jnp.uint8(255), 2**40]
)
def test_no_count_wraps(count):
    far = 2**20
    for by in (1, 5):
        found = schedule_cooldown(schedule_warmup(PEAK, 300, steps_per_epoch=by), far, 10, steps_per_epoch=by)(count)
        wanted = 0 if int(count) > far else PEAK * (int(count) // by + 1) / 300
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_steps_are_counted_as_integers():
    late = schedule_cooldown(1.0, 2**24, 4, shape=ewa_optax.shape_linear)
    assert [float(late(2**24 + i)) for i in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match="count must be at most 2147483647 where start is an array, got 2147483653"):
        schedule_cooldown(1.0, jnp.int32(5), 2)(2**31 + 5)


def test_an_optimizer_takes_them():
    """A rate that is read, and no rate of 0 in a training of as many steps as it has."""
    optimizer = ewa_optax.gradient_descent(schedule_cooldown(schedule_warmup(PEAK, 2), 3, 2))

    def step(state, _):
        update, state = optimizer.update(jnp.ones(()), state)
        return state, (update, ewa_optax.get_learning_rate(state))

    _, (updates, rates) = jax.lax.scan(step, optimizer.init(jnp.zeros(())), length=5)
    np.testing.assert_allclose(rates, PEAK * np.array([0.5, 1, 1, 1, 0.5]), rtol=1e-6)
    np.testing.assert_array_equal(updates, -rates)


WRONG = [
    (lambda: schedule_warmup(-0.1, 5), ValueError, "schedule_warmup: schedule must be finite and 0 or more, got -0.1"),
    (lambda: schedule_warmup("cosine", 5), TypeError, "schedule must be a number, a scalar array or a schedule"),
    (lambda: schedule_warmup(0.1, 0.5), ValueError, "steps must be a whole number, 0 or more, got 0.5; 0 is none"),
    (lambda: schedule_warmup(0.1, 5, steps_per_epoch=0), ValueError, "steps_per_epoch must be a whole number, 1 or"),
    (lambda: schedule_cooldown(0.1, -1, 5), ValueError, "start must be a whole number, 0 or more, got -1; it counts"),
    (lambda: schedule_cooldown(0.1, 1, 0), ValueError, "schedule_cooldown: steps must be a whole number, 1 or more"),
    (lambda: schedule_cooldown(0.1, 1, 5, -0.1), ValueError, "end must be finite and 0 or more, got -0.1"),
    (lambda: schedule_cooldown(0.1, 1, 5, shape="cosine"), TypeError, "shape must be a function, got 'cosine'.*write"),
    (lambda: schedule_cooldown(0.1, 1, 5, shape=lambda f: f), ValueError, "shape must be .* got 0.0 at 0; write shape"),
    (lambda: schedule_cooldown(0.1, 1, 5, shape=lambda f: 1 - f / 2), ValueError, "got 0.5 at 1; write shape=lambda"),
    (lambda: schedule_cooldown(0.1, jnp.ones(2), 5), ValueError, r"start must be a scalar, got an array of shape \(2,"),
]


@pytest.mark.parametrize(("make", "kind", "message"), WRONG)
def test_what_is_wrong_is_said_where_it_is_made(make, kind, message):
    with pytest.raises(kind, match=message):
        make()
