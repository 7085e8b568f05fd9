"""Bad input is an error at the call, with the value, the rule and the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import ewa_optax
from ewa_optax import matrices, minibatch, pieces, series, storage
from ewa_optax.storage._argument import NAMED


def epoch(data, batch_size, **keywords):
    key = jax.random.key(0)
    return minibatch.epoch(lambda c, b: (c, None), 0.0, data, batch_size=batch_size, key=key, **keywords)


def decayed(mask):
    optimizer = ewa_optax.adamw(0.1, mask=mask)
    params = {"w": np.ones(2)}
    return optimizer.update(params, optimizer.init(params), params)


ROWS = np.zeros((10, 2))
SERIES = np.arange(4.0)
COLUMNS = np.ones((2, 300))  # As in the course.
BAD_CALLS = [
    (lambda: ewa_optax.adam(0.1, b1=1.0), ValueError, r"adam: b1 must be in \[0, 1\), got 1.0; a decay of 1 - 1/n"),
    (lambda: ewa_optax.adam(0.1, b2=-0.5), ValueError, r"adam: b2 must be in \[0, 1\), got -0.5; a decay of"),
    (lambda: ewa_optax.adam(0.1, eps=-1), ValueError, "adam: eps must be finite and 0 or more, got -1; 1e-8"),
    (lambda: ewa_optax.adam(0.1, eps_root=float("inf")), ValueError, "eps_root must be finite.*got inf"),
    (lambda: ewa_optax.adam(-0.1), ValueError, "learning_rate must be .*0 or more, got -0.1; .*negate the loss"),
    (lambda: ewa_optax.adam(float("nan")), ValueError, "learning_rate must be finite.*got nan"),
    (
        lambda: ewa_optax.adam("0.1"),
        TypeError,
        "learning_rate must be a number, a scalar array or a schedule, got '0.1'",
    ),
    (lambda: ewa_optax.adam(0.1, b1="0.9"), TypeError, "b1 must be a number.*got '0.9'.*; a decay of 1 - 1/n"),
    (
        lambda: series.decay_from_half_life("6h"),
        TypeError,
        "half_life must be a number .*got '6h' .*counted in steps or in the unit of times=",
    ),
    (
        lambda: series.ewa(pandas.DataFrame({"a": [1.0], "b": ["x"]}), 0.9),
        TypeError,
        r"got DataFrame; of a frame, take .*: frame.select_dtypes\('number'\).to_numpy\(float\)",
    ),
    (lambda: ewa_optax.adam(None), TypeError, "learning_rate must be a number.*got None"),
    (lambda: ewa_optax.adam(jnp.ones(3)), ValueError, r"must be a scalar, got an array of shape \(3,\).*jax.vmap"),
    (lambda: ewa_optax.adam(0.1, b1=lambda count: 0.9), TypeError, "b1 must be a number or a scalar array, got <"),
    (lambda: ewa_optax.adam(0.1, b1=np.float32(1)), ValueError, r"b1 must be in \[0, 1\)"),
    (lambda: ewa_optax.adam(0.1, b1=np.array(1.0)), ValueError, r"b1 must be in \[0, 1\), got 1.0"),
    (lambda: ewa_optax.adamw(0.1, weight_decay=-1e-4), ValueError, "adamw: weight_decay must be .*got -0.0001"),
    (lambda: ewa_optax.adam(0.1, storage="int8"), ValueError, "storage must be None .*'8bit'.*got 'int8'; .*pair"),
    (lambda: ewa_optax.adam(0.1, storage=("8bit", "x")), ValueError, "storage must be None .*got 'x'"),
    (lambda: ewa_optax.momentum(0.1, storage=("8bit", None)), ValueError, r"got \('8bit', None\)"),
    (lambda: ewa_optax.adam(0.1, storage=8), TypeError, "storage must be None .*got 8"),
    (lambda: ewa_optax.adam(0.1, storage=storage.EightBit), TypeError, "got <class .*EightBit.*make an object"),
    (
        lambda: ewa_optax.adam(0.1, storage=storage.Factored()),
        ValueError,
        "Factored keeps .* squares only.*; use it in rmsprop",
    ),
    (lambda: ewa_optax.scale_by_ewa(0.9, "bf16"), ValueError, "storage must be None .*got 'bf16'"),
    (lambda: storage.EightBit(block=0), ValueError, "EightBit: block must be a whole number, 1 or more, got 0; None"),
    (lambda: storage.BFloat16(min_size=-1), ValueError, "BFloat16: min_size must be .*0 or more, got -1; 0 encodes"),
    (lambda: storage.Float16(seed=0.5), ValueError, "Float16: seed must be a whole number.*got 0.5"),
    (
        lambda: storage.Float24(rounding="up"),
        ValueError,
        "Float24: rounding must be 'stochastic' or 'nearest', got 'up'",
    ),
    (lambda: pieces.add(), ValueError, "add: there must be one piece or more, got none"),
    (lambda: pieces.add(0.9), TypeError, "add: every piece must be a transformation, got 0.9; try scale_by_ewa"),
    (lambda: pieces.beside(None), TypeError, "beside: piece must be a transformation, got None"),
    (lambda: pieces.divide(0.9, pieces.take(0)), TypeError, "divide: numerator must be a transformation, got 0.9"),
    (lambda: pieces.of_arrays(0.9), TypeError, "of_arrays: average must be a transformation, got 0.9"),
    (lambda: pieces.of_rows_and_columns(0.9), TypeError, "of_rows_and_columns: average must be a transformation"),
    (lambda: pieces.root_mean_square(0.9), TypeError, "root_mean_square: second_moment must be a transformation"),
    (lambda: pieces.take(2), ValueError, "take: index must be 0 or 1, got 2; 0 is the update"),
    (
        lambda: pieces.take(0).update(ROWS, None),
        TypeError,
        "take needs an update and what stands beside it, got ndarray",
    ),
    (lambda: pieces.combine(1, 1).update(ROWS, None), TypeError, r"combine needs .* put beside\(...\) in front"),
    (
        lambda: pieces.scale_by_ewa_of_share(0.9),
        TypeError,
        "share must be a function of the step, got 0.9 .*scale_by_ewa",
    ),
    (
        lambda: pieces.running_max(1.5),
        ValueError,
        r"running_max: decay must be in \[0, 1\], got 1.5; 1 forgets nothing",
    ),
    (lambda: pieces.rectify(0.999, 3.0), ValueError, "rectify: threshold must be finite and 4 or more, got 3.0"),
    (lambda: pieces.scale_by_trust_ratio(-1.0), ValueError, "coefficient must be .*got -1.0; 0.001 is the usual"),
    (lambda: pieces.scale_by_parameter_rms(-1.0), ValueError, "min_scale must be .*got -1.0; 1e-3 is the usual"),
    (
        lambda: pieces.scale_by_parameter_rms().update(ROWS, pieces.scale_by_parameter_rms().init(ROWS)),
        ValueError,
        "scale_by_parameter_rms needs the parameters; call update",
    ),
    (lambda: ewa_optax.add_decayed_weights(-0.1), ValueError, "add_decayed_weights: weight_decay must be .*got -0.1"),
    (
        lambda: ewa_optax.lion(0.1, b2=0.0),
        ValueError,
        r"lion: b2 must be in \(0, 1\), got 0.0; 0 would keep the newest",
    ),
    (lambda: ewa_optax.rmsprop_centered(0.1, 0), ValueError, r"rmsprop_centered: decay must be in \(0, 1\), got 0"),
    (lambda: ewa_optax.ademamix(0.1, warmup=-1), ValueError, "ademamix: warmup must be .*got -1; it counts steps"),
    (lambda: ewa_optax.ademamix(0.1, alpha=abs), TypeError, "ademamix: alpha must be a number .*warmup=steps"),
    (lambda: ewa_optax.adafactor(decay_rate=0), ValueError, "adafactor: decay_rate must be .*got 0; 0.8 is the usual"),
    (
        lambda: ewa_optax.adafactor(clipping_threshold=0),
        ValueError,
        "clipping_threshold must be .*got 0; 1 is the usual",
    ),
    (lambda: ewa_optax.adafactor(1e-3, 128), TypeError, "takes from 0 to 1 positional arguments but 2 were given"),
    (
        lambda: ewa_optax.radam(0.1, threshold=1),
        ValueError,
        "radam: threshold must be .*4 or more, got 1; 4 is the paper",
    ),
    (
        lambda: ewa_optax.lion(0.1, 0.9, 0.99, jnp.bfloat16),
        TypeError,
        "got the class bfloat16; .*optax's mu_dtype, is storage",
    ),
    (lambda: pieces.combine("1", 1), TypeError, "combine: weight must be a number or a scalar array, got '1'"),
    (lambda: pieces.proximal_weight_decay(-1.0, 0.1), ValueError, "proximal_weight_decay: learning_rate must be"),
    (lambda: decayed("kernel"), TypeError, "mask must be a tree of booleans, got 'kernel'; name no leaf"),
    (
        lambda: decayed({"w": True, "v": True}),
        ValueError,
        "mask must be a tree of booleans like the parameters.*got {'w'",
    ),
    (lambda: ewa_optax.round_stochastically(-1), ValueError, "round_stochastically: seed must be 0 or more, got -1"),
    (lambda: ewa_optax.round_stochastically(0.5), TypeError, "seed must be a whole number, got 0.5"),
    (
        lambda: ewa_optax.round_stochastically().update(ROWS, ewa_optax.round_stochastically().init(ROWS)),
        ValueError,
        "round_stochastically needs the parameters",
    ),
    (lambda: ewa_optax.state_bytes(None, ROWS), TypeError, "state_bytes: optimizer must be a transformation, got None"),
    (lambda: ewa_optax.peak_bytes("adam", ROWS), TypeError, "peak_bytes: optimizer must be a .*, got 'adam'; try"),
    (lambda: ewa_optax.adam(True), TypeError, r"learning_rate must be a number.*got True \(bool\)"),
    (lambda: ewa_optax.adam(np.complex64(1j)), TypeError, "learning_rate must be a number"),
    (lambda: ewa_optax.adam(jax.random.key(0)), TypeError, "learning_rate must be a number"),
    (lambda: ewa_optax.adam(0.1, b1=10**400), ValueError, r"b1 must be in \[0, 1\)"),
    (lambda: ewa_optax.gradient_descent(np.array(-0.1)), ValueError, "learning_rate must be .*got -0.1"),
    (lambda: ewa_optax.adam(), TypeError, r"adam\(\) missing 1 required positional argument: 'learning_rate'"),
    (lambda: ewa_optax.scale_by_rms(0.9, numerator=0.9), TypeError, "numerator must be a transformation, got 0.9; try"),
    (lambda: ewa_optax.momentum(0.1, 1), ValueError, r"momentum: decay must be in \[0, 1\), got 1;"),
    (lambda: ewa_optax.heavy_ball(0.1, decay=1.0), ValueError, "heavy_ball: decay must be"),
    (lambda: ewa_optax.rmsprop(0.1, decay=2.0), ValueError, "rmsprop: decay must be"),
    (lambda: ewa_optax.gradient_descent(-1), ValueError, "gradient_descent: learning_rate must be"),
    (lambda: ewa_optax.scale_by_ewa(1.5), ValueError, "scale_by_ewa: decay must be"),
    (lambda: ewa_optax.bias_correct(1.0), ValueError, "bias_correct: decay must be"),
    (lambda: ewa_optax.scale_by_rms(1.0), ValueError, r"scale_by_rms: second_moment must be in \[0, 1\), got 1.0"),
    (lambda: ewa_optax.scale_by_rms("0.9"), TypeError, "scale_by_rms: second_moment must be a number .*got '0.9'"),
    (lambda: ewa_optax.scale_by_rms(0.9, eps=-1.0), ValueError, "scale_by_rms: eps must be"),
    (lambda: ewa_optax.scale_by_learning_rate(-1.0), ValueError, "scale_by_learning_rate: learning_rate must be"),
    (lambda: ewa_optax.rescale_learning_rate((), -1), ValueError, "factor must be finite and 0 or more, got -1;"),
    (lambda: ewa_optax.schedule_staircase(0.1, factor=0), ValueError, r"factor must be in \(0, 1\], got 0; 0.5 halves"),
    (lambda: ewa_optax.schedule_staircase(0.1, every=0), ValueError, "every must be a whole number, 1 or more, got 0"),
    (lambda: ewa_optax.schedule_staircase(0.1, steps_per_epoch=2.5), ValueError, "steps_per_epoch must be a whole"),
    (lambda: ewa_optax.schedule_exponential(0.1, 1.05), ValueError, r"factor must be in \(0, 1\], got 1.05"),
    (lambda: ewa_optax.schedule_inverse_time(0.1, -1.0), ValueError, "decay_rate must be .*0 or more, got -1.0"),
    (lambda: ewa_optax.schedule_inverse_time(-0.1), ValueError, "init_value must be .*got -0.1"),
    (
        lambda: ewa_optax.schedule_inverse_sqrt(0.1, first_epoch=0),
        ValueError,
        "first_epoch must be a whole number, 1 or",
    ),
    (lambda: ewa_optax.schedule_inverse_sqrt(0.1, 0.0), ValueError, "k must be finite and more than 0, got 0.0"),
    (lambda: epoch(ROWS, 0), ValueError, "batch_size must be from 1 to 10, got 0; 10 makes the whole data one batch"),
    (lambda: epoch(ROWS, 11), ValueError, "batch_size must be from 1 to 10, got 11"),
    (lambda: epoch(COLUMNS, 64), ValueError, "from 1 to 2, got 64; .* if the 300 along the last axes are .* transpose"),
    (lambda: epoch((COLUMNS, COLUMNS[:1]), 64), ValueError, r"\(2, 300\), \(1, 300\): its 300 examples .* transpose"),
    (lambda: epoch((COLUMNS, COLUMNS[0]), 64), ValueError, r"\(2, 300\), \(300,\): its 300 examples .* transpose"),
    (lambda: epoch(ROWS, 2.0), TypeError, r"batch_size must be an integer, got 2.0 \(float\)"),
    (lambda: epoch(ROWS, True), TypeError, "batch_size must be an integer, got True"),
    (
        lambda: epoch({"x": ROWS, "y": ROWS[:9]}, 2),
        ValueError,
        r"differ in length \(data\['x'\]: 10, data\['y'\]: 9\); cut",
    ),
    (
        lambda: epoch((ROWS, np.float32(1)), 2),
        TypeError,
        r"data\[1\] must be an array of numbers, got float32; convert it",
    ),
    (lambda: epoch((ROWS, jnp.ones(())), 2), ValueError, r"data\[1\] is a scalar.*give it one"),
    (
        lambda: epoch(ROWS, 2, remainder="pad"),
        ValueError,
        "remainder must be one of .*'keep', 'drop', 'mask'.*got 'pad'",
    ),
    (
        lambda: minibatch.epoch(3, 0.0, ROWS, batch_size=1, key=jax.random.key(0)),
        TypeError,
        "step must be a function, got 3",
    ),
    (lambda: epoch(ROWS, 2, order="sorted"), ValueError, "order must be one of .*, got 'sorted'"),
    (lambda: epoch(ROWS, 2, loop="while"), ValueError, "loop must be one of .*, got 'while'"),
    (lambda: epoch(ROWS, 2, shards=3), ValueError, "shards must divide the number of examples, 10, and .* 2, got 3"),
    (lambda: epoch(ROWS, 2, shards=0), ValueError, "shards must be from 1 to 10, got 0"),
    (lambda: epoch(ROWS, 2, epoch=-1), ValueError, "epoch must be from 0"),
    (lambda: epoch(ROWS, 2, epoch=jnp.ones(())), TypeError, "epoch must be an integer"),
    (
        lambda: jax.jit(lambda x: epoch(x, 2, loop="python"))(ROWS),
        ValueError,
        "loop='python' can't run inside of jax.jit",
    ),
    (lambda: minibatch.suggest_batch_size(0), ValueError, "num_examples must be from 1"),
    (
        lambda: minibatch.suggest_batch_size(5000, example_bytes=10, memory_bytes=9),
        ValueError,
        "example_bytes must be at most memory_bytes, 9, got 10; not even one example fits",
    ),
    (
        lambda: minibatch.epoch(lambda c, b: (c, None), 0.0, ROWS, batch_size=1, key=0),
        TypeError,
        r"key must be a jax.random key, got 0 \(int\); make one: jax.random.key\(0\)",
    ),
    (lambda: epoch({}, 2), ValueError, "data holds no examples; pass"),
    (lambda: epoch(ROWS[:0], 1), ValueError, "data holds no examples; pass"),
    (
        lambda: ewa_optax.muon(1e-3, coefficients=[("a", 1, 2)]),
        TypeError,
        "orthogonalize: each of coefficients must be a number or a scalar array, got 'a'",
    ),
    (
        lambda: ewa_optax.muon(1e-3, coefficients=matrices.Coefficients([(1.5, -0.5, 0.0)], -1.0)),
        ValueError,
        "norm_factor of coefficients must be finite and more than 0, got -1.0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_out_that_depends_on_the_size_of_the_batch():
    with pytest.raises(ValueError, match=r"out\['errors'\] of shape \(4,\).* 4 examples and of shape \(2,\)"):
        minibatch.epoch(lambda c, b: (c, {"errors": b[:, 0]}), 0.0, ROWS, batch_size=4, key=jax.random.key(0))


def test_an_out_whose_structure_depends_on_the_size_of_the_batch():
    with pytest.raises(ValueError, match=r"structure .* for mini-batches of 4 .* for the smaller last one"):
        minibatch.epoch(
            lambda c, b: (c, (1.0,) if len(b) == 4 else 1.0), 0.0, ROWS, batch_size=4, key=jax.random.key(0)
        )


def test_adamw_without_parameters_says_so():
    optimizer = ewa_optax.adamw(0.1)
    with pytest.raises(ValueError, match=r"needs the parameters; call update\(gradients, state, params\)"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        (
            np.ones(2, np.int32),
            TypeError,
            r"shape \(2,\) has dtype int32, but an update must be float or complex; leave",
        ),
        (np.zeros(2, jax.dtypes.float0), TypeError, r"a leaf of shape \(2,\) .*must be float or complex; leave it out"),
        (np.ones(3), ValueError, r"an update of shape \(3,\) came for a parameter of shape \(2,\)"),
        (np.ones(1), ValueError, r"an update of shape \(1,\) came for a parameter of shape \(2,\)"),
        (
            np.array([1j, 1]),
            TypeError,
            r"a complex update of shape \(2,\) came for a real parameter; take its real part",
        ),
    ],
    ids=["int", "float0", "longer", "would broadcast", "complex"],
)
@pytest.mark.parametrize("make", [ewa_optax.momentum, ewa_optax.adam, ewa_optax.adamw])
def test_updates_that_do_not_fit_their_parameters(make, update, error, message):
    optimizer = make(0.1)
    with pytest.raises(error, match=message):
        optimizer.update(update, optimizer.init(jnp.ones(2)), jnp.ones(2))


def test_a_schedule_that_returns_no_scalar():
    with pytest.raises(ValueError, match=r"the schedule returned shape \(1,\)"):
        ewa_optax.adam(lambda count: jnp.ones(1)).init(jnp.ones(2))


def test_numbers_of_every_kind_are_taken():
    for rate in (0.1, 1, np.float32(0.1), np.float64(0.1), np.array(0.1), jnp.array(0.1), jnp.bfloat16(0.1)):
        optimizer = ewa_optax.adam(rate, b1=np.float32(0.5), b2=jnp.float32(0.9), eps=0)
        updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))
        np.testing.assert_allclose(updates, -float(rate), rtol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_a_gradient_of_another_shape_is_an_error_with_any_storage(name):
    average = ewa_optax.scale_by_ewa(0.9, name)
    for shape in ((64, 65), (4160,), (3,)):
        with pytest.raises(ValueError, match=r"an update of shape .* came for a parameter of"):
            jax.eval_shape(lambda g, p: average.update(g, average.init(p)), np.ones(shape), np.ones((65, 64)))


STORAGES = [
    None,
    *NAMED,
    storage.EightBit(block=64),
    storage.EightBit(min_size=0),
    ("8bit", storage.Factored()),
]
BLOCKS = ["8bit", storage.EightBit(block=64)]


@pytest.mark.parametrize("made", STORAGES, ids=str)
def test_a_state_of_another_storage_is_an_error(made):
    params = {"w": jnp.ones((128, 128)), "b": jnp.ones(128)}
    state = jax.eval_shape(ewa_optax.adam(0.1, storage=made).init, params)
    for other in STORAGES:
        in_blocks = other in BLOCKS and made in BLOCKS  # Which are as long as the state says.
        if other != made and not in_blocks:
            with pytest.raises(ValueError, match=r"state was made with.* storage.*that (it|the state) was made with"):
                jax.eval_shape(ewa_optax.adam(0.1, storage=other).update, params, state, params)


@pytest.mark.parametrize(
    ("call", "word", "here"),
    [
        (lambda: ewa_optax.adam(beta1=0.9), "beta1", "b1"),
        (lambda: ewa_optax.adam(lr=1e-3), "lr", "learning_rate"),
        (lambda: ewa_optax.adamw(1e-3, mu_dtype="bfloat16"), "mu_dtype", r"storage=\('bfloat16', None\)"),
        (lambda: ewa_optax.lion(1e-3, mu_dtype="bfloat16"), "mu_dtype", "storage='bfloat16'"),
        (lambda: ewa_optax.momentum(1e-3, beta=0.9), "beta", "decay"),
        (lambda: ewa_optax.momentum(1e-3, momentum=0.9), "momentum", "decay"),
        (lambda: ewa_optax.rmsprop(1e-3, momentum=0.9), "momentum", "rmsprop_momentum"),
        (lambda: ewa_optax.adam(1e-3, momentum=0.9), "momentum", "b1"),
        (lambda: ewa_optax.adam(1e-3, nesterov=True), "nesterov", "nadam"),
        (lambda: ewa_optax.muon(1e-3, nesterov=True), "nesterov", "always Nesterov's"),
        (lambda: ewa_optax.muon(1e-3, ns_steps=5), "ns_steps", "it is steps here"),
        (lambda: ewa_optax.muon(1e-3, ns_coefficients=(1, 2, 3)), "ns_coefficients", "it is coefficients here"),
        (lambda: ewa_optax.normuon(1e-3, adjust_lr_fn="original"), "adjust_lr_fn", "it is rule here"),
        (lambda: ewa_optax.adam(1e-3, betas=(0.9, 0.99)), "betas", "b1 and b2"),
        (lambda: ewa_optax.ademamix(1e-3, beta_3=0.9), "beta_3", "b3"),
        (lambda: ewa_optax.scale_by_ewa(beta=0.9), "beta", "decay"),
        (lambda: ewa_optax.scale_by_rms(0.9, epsilon=1e-8), "epsilon", "eps"),
        (lambda: ewa_optax.adam(alpha=0.1), "alpha", "learning_rate"),
        (lambda: ewa_optax.rmsprop(0.1, alpha=0.99), "alpha", "course's is learning_rate here, torch's is decay"),
        (lambda: ewa_optax.rmsprop(0.1, beta2=0.9), "beta2", "decay"),
        (lambda: ewa_optax.schedule_exponential(alpha0=0.1), "alpha0", "init_value"),
        (lambda: series.ewa(SERIES, beta=0.9), "beta", "decay"),
        (lambda: series.ewa(SERIES, alpha=0.1), "alpha", "decay=1 - alpha"),
        (lambda: series.ewa(SERIES, 0.9, bias_correction=True), "bias_correction", "debias"),
        (lambda: series.ewa(SERIES, halflife=6), "halflife", r"decay=series.decay_from_half_life\(halflife\)"),
        (lambda: series.ewa_std(SERIES, span=6), "span", r"decay=series.decay_from_span\(span\)"),
        (lambda: series.ewa_var(SERIES, com=6), "com", r"decay=series.decay_from_center_of_mass\(com\)"),
        (lambda: series.ewa(SERIES, 0.9, adjust=False), "adjust", r"debias=False, initial=x\[0\]"),
        (lambda: series.ewa_cov(SERIES, SERIES, 0.9, adjust=False), "adjust", "is debias=False here"),
        (lambda: series.ewa_with_state(SERIES, 0.9, ignore_na=True), "ignore_na", "missing='skip'"),
        (lambda: series.ewa(SERIES, 0.9, min_periods=3), "min_periods", "mask"),
        (lambda: series.decay_from_half_life(halflife=6), "halflife", "half_life"),
        (lambda: series.decay_from_center_of_mass(com=6), "com", "center_of_mass"),
    ],
)
def test_words_of_other_libraries_get_the_word_here(call, word, here):
    with pytest.raises(TypeError, match=f"has no argument {word}; .*{here}"):
        call()


def test_what_the_words_of_series_say_is_what_they_mean():
    np.testing.assert_array_equal(series.ewa(x=SERIES, decay=0.5), series.ewa(SERIES, 0.5))
    with pytest.raises(TypeError, match="unexpected keyword argument 'frobnicate'"):
        series.ewa(SERIES, 0.9, frobnicate=1)


def test_a_word_that_nobody_has_is_the_error_of_python():
    with pytest.raises(TypeError, match="unexpected keyword argument 'frobnicate'"):
        ewa_optax.adam(1e-3, frobnicate=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'mu_dtype'"):
        ewa_optax.gradient_descent(1e-3, mu_dtype="bfloat16")
