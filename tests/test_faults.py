"""What faults on purpose showed to be tested nowhere else: small, and one each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
import test_resume
from test_contract import assert_close_in_size, eight_decades, run_updates

import ewa_optax
from ewa_optax import pieces, series, storage
from ewa_optax._random_bits import random_bits
from ewa_optax.series._recurrence import recurrence
from ewa_optax.storage import _encoding
from ewa_optax.storage._formats import BFloat16


def test_radam_at_its_default_threshold():
    gradients = eight_decades(20, (3,))
    expected = oracles.radam(gradients.astype(np.float64), 0.1, 0.9, 0.999, 1e-8, 0.0, 4.0)
    assert_close_in_size(run_updates(ewa_optax.radam(0.1), jnp.zeros(3), gradients), expected, 1e-5)


def test_a_large_layer_of_spikes():
    optimizer = ewa_optax.lars(1.0)
    updates, _ = optimizer.update(jnp.full(100, 3e38), optimizer.init(jnp.ones(100)), jnp.ones(100))
    np.testing.assert_allclose(updates, -0.001, rtol=1e-5)


@pytest.mark.parametrize("make", [ewa_optax.heavy_ball])
def test_steady_spikes(make):
    gradients = jnp.full((100, 1), jnp.finfo(jnp.float32).max)
    assert np.isfinite(run_updates(make(1.0), jnp.zeros(1), gradients)).all()


def test_a_layer_of_zeros_moves():
    ratio = pieces.scale_by_trust_ratio(0.001)
    np.testing.assert_array_equal(ratio.update(jnp.ones(3), ratio.init(jnp.zeros(3)), jnp.zeros(3))[0], 1)


def test_clip_by_rms():
    clip = pieces.clip_by_rms(0.5)
    np.testing.assert_allclose(clip.update(jnp.full(4, 3.0), clip.init(jnp.zeros(4)))[0], 0.5, rtol=1e-6)


def test_squares_in_float16():
    kept = storage.Float16().for_squares()
    back = kept.decode(kept.encode(jnp.full(8, 3e38), jnp.zeros(8, jnp.uint32)))
    np.testing.assert_allclose(back, 65504.0**2, rtol=1e-3)


def test_no_key_gives_the_sequence_of_another_at_an_offset():
    here, there = (np.asarray(random_bits(jnp.uint32(key), (1000,))) for key in (7, 8))
    assert not len(np.intersect1d(here, there))


def test_averages_of_two_decays_in_one_chain(monkeypatch):
    keys = []
    monkeypatch.setattr(_encoding, "fold", lambda *numbers: keys.append(repr(numbers)) or jnp.uint32(0))
    chain = optax.chain(*(ewa_optax.scale_by_ewa(decay, BFloat16(min_size=0)) for decay in (0.5, 0.75)))
    with jax.disable_jit():  # What is traced already would fold no more.
        chain.update(jnp.ones(4), chain.init(jnp.ones(4)))
    assert len(set(keys)) == 2


def test_an_iterable_that_is_over_is_not_closed_again(tmp_path):
    calls = []
    for _ in range(2):
        test_resume.fit(
            tmp_path / "run", data=test_resume.Batches(), epochs=3, checkpoint_every=4,
            callbacks=[lambda run: calls.append(run.epoch)],
        )  # fmt: skip
    assert calls == [1, 2, 3]


def test_a_state_may_stay_infinite():
    plateau = optax.chain(ewa_optax.adam(0.1), optax.contrib.reduce_on_plateau(accumulation_size=1000))
    run = ewa_optax.fit(
        test_resume.loss, plateau, jnp.zeros(3), test_resume.DATA, batch_size=64, epochs=2, key=test_resume.KEY,
        progress=False,
    )  # fmt: skip
    assert run.stopped == "finished"


def test_checkpoints_are_of_every_so_many_steps(tmp_path):
    test_resume.fit(tmp_path / "run", epochs=6)
    assert sorted(int(path.name) for path in (tmp_path / "run").glob("[0-9]*")) == [16, 18]


def test_an_iterable_that_is_interrupted_in_mid_epoch_goes_on(tmp_path):
    class Interrupted:
        def __init__(self, at):
            self.left = at

        def __iter__(self):
            for batch in test_resume.Batches():
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt
                yield batch

    def keyed(w, batch, key):
        return test_resume.loss(w, batch) + jax.random.normal(key) * w.sum()

    whole = test_resume.fit(None, keyed, test_resume.Batches(), has_key=True)
    first = test_resume.fit(tmp_path / "run", keyed, Interrupted(8), has_key=True)
    assert (first.stopped, first.epoch) == ("interrupted", 1)
    assert first.step > 0
    test_resume.same(test_resume.fit(tmp_path / "run", keyed, test_resume.Batches(), has_key=True), whole)


def test_a_long_recurrence_does_not_stall():
    share = jnp.full((1, 200_000, 1), np.float32(1e-6))
    found = recurrence(share, share, 1 - share, jnp.zeros((1, 1)))[0, -1, 0]
    np.testing.assert_allclose(found, -np.expm1(200_000 * np.log1p(-np.float64(np.float32(1e-6)))), rtol=1e-6)


@pytest.mark.parametrize(("decay", "times"), [(0.0, None), (0.5, [0.0, 1000.0])])
def test_a_past_that_has_faded_away_has_been(decay, times):
    _, state = series.ewa_with_state(np.float32([3.0, np.nan]), decay, times=times)
    after = series.ewa_with_state(np.float32([np.nan]), decay, state, times=times and [1001.0])[0]
    np.testing.assert_array_equal(after, [3])


def test_a_piece_after_a_gap():
    x = np.float32([1.0, np.nan, np.nan, 5.0, 6.0])
    keywords = dict(debias=False, initial=np.nan)
    whole = series.ewa(x, 0.5, **keywords)
    _, state = series.ewa_with_state(x[:3], 0.5, **keywords)
    np.testing.assert_allclose(series.ewa_with_state(x[3:], 0.5, state, debias=False)[0], whole[3:], rtol=1e-6)


def test_the_average_of_nothing_is_nan():
    assert np.isnan(series.ewa_with_state(np.float32([np.nan, np.nan]), 0.5)[1].average)


def test_unbiased_and_undebiased():
    import pandas as pd

    x = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    expected = pd.Series(x.astype(np.float64)).ewm(alpha=0.1, adjust=False).var()
    np.testing.assert_allclose(series.ewa_var(x, 0.9, debias=False), expected, rtol=1e-4)


def test_epochs_are_divided_as_integers():
    late = ewa_optax.schedule_staircase(1.0, 0.5, steps_per_epoch=2**24 + 1, first_epoch=0)
    assert (float(late(2**24)), float(late(2**24 + 1))) == (1.0, 0.5)


def test_weights_of_a_schedule():
    average = ewa_optax.average_parameters(lambda t: 1 - 1e-6, debias=True)
    state = average.init(jnp.zeros(1))
    state = jax.jit(
        lambda s: jax.lax.scan(lambda s, _: (average.update(jnp.zeros(1), s, jnp.ones(1))[1], None), s, length=200_000)[
            0
        ]
    )(state)
    np.testing.assert_allclose(state.weight[0], -np.expm1(200_000 * np.log1p(-1e-6)), rtol=1e-6)


def test_masks_within_a_stack():
    layers = [{"w": jnp.ones((2, 2))} for _ in range(3)]
    mask = [{"w": i == 1} for i in range(3)]
    stacked = ewa_optax.stack_leaves(layers)
    optimizer = ewa_optax.adamw(0.1, weight_decay=0.5, mask=mask)
    found = ewa_optax.unstack_leaves(optimizer.update(stacked, optimizer.init(stacked), stacked)[0])
    expected = optimizer.update(layers, optimizer.init(layers), layers)[0]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
