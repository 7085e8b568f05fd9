"""Faults on purpose, one at a time in a copy of the sources: does a quick test notice each?

Run as `python -m tests.mutations` in a checkout, with the `test` extra installed; the checkout itself is left alone. A
fault is first shown to the tests that should notice it, and to the whole quick suite only if none of them does. In the
end those that noticed run once more without any fault, and must pass. When a source or a test moves, bring the table up
to date; a fault that no longer fits is named before anything runs.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
SECONDS = 3600
"""Until a run of pytest is ended. A fault may make a loop endless; that is not to notice it."""


class Mutation(NamedTuple):
    """`old`, which is in the file once, becomes `new`; `look` are the tests that should notice, the likeliest first."""

    what: str
    file: str
    old: str
    new: str
    look: tuple[str, ...]


CONTRACT = "tests/optimizers/test_contract.py::"
MESHES = "tests/matrices/test_matrices_on_meshes.py::"


def oracle(name: str) -> str:
    """The test that compares an optimizer with its oracle."""
    return f"{CONTRACT}test_equals_its_oracle[{name}]"


def mix(name: str) -> str:
    """The test of the largest finite gradients: the dtypes of parameters and of gradients, and the optimizer."""
    return f"{CONTRACT}test_dtypes_hold_and_no_finite_gradient_breaks_anything[some-{name}]"


MUTATIONS = (
    # Words and pictures.
    Mutation(
        "an average takes pandas' words for Python's error",
        "ewa_optax/series/_ewa.py",
        "@checked\ndef ewa(",
        "def ewa(",
        ("tests/test_errors.py::test_words_of_other_libraries_get_the_word_here",),
    ),
    Mutation(
        "values below 0 go on a logarithmic axis",
        "ewa_optax/plots/_landscapes.py",
        '"linear" if below else "log"',
        '"log"',
        ("tests/plots/test_plots.py::test_values_along_paths",),
    ),
    Mutation(
        "a run is taken for its history",
        "ewa_optax/plots/_costs.py",
        'if not hasattr(record, "costs"):',
        "if record is None:",
        ("tests/plots/test_plots.py::test_bad_calls_make_no_figure",),
    ),
    # Matrices.
    Mutation(
        "divided axes are merged",
        "ewa_optax/matrices/_axes.py",
        "merged = self.inputs[1:] + self.outputs[1:]",
        "merged = ()",
        (f"{MESHES}test_kernels_of_several_axes_may_be_divided_along_any[Explicit]",),
    ),
    Mutation(
        "the Gram matrix is that of the longer side",
        "ewa_optax/matrices/_orthogonalize.py",
        "is_wide = x.shape[-2] <= x.shape[-1]",
        "is_wide = x.shape[-2] > x.shape[-1]",
        (
            "tests/matrices/test_orthogonalize.py::test_a_step_is_three_products_by_the_gram_matrix_of_the_shorter_side[shape0]",
        ),
    ),
    Mutation(
        "further steps begin with the first polynomial",
        "ewa_optax/matrices/_orthogonalize.py",
        "(*each, *each[-1:] * (steps - len(each)))",
        "(*each, *each[:1] * (steps - len(each)))",
        ("tests/matrices/test_orthogonalize.py::test_more_coefficients_are_cut_and_the_last_of_fewer_is_repeated",),
    ),
    Mutation(
        "the last of Polar Express has room, too",
        "ewa_optax/matrices/_orthogonalize.py",
        "return Coefficients((*each, last), factor)",
        "return Coefficients((*each, tuple(x / factor for x in last)), factor)",
        ("tests/matrices/test_orthogonalize.py::test_named_coefficients_are_the_printed_ones[polar_express]",),
    ),
    Mutation(
        "the norm has no factor",
        "ewa_optax/matrices/_orthogonalize.py",
        "_real(factor, size.dtype) * size",
        "size",
        ("tests/matrices/test_orthogonalize.py::test_named_coefficients_are_the_printed_ones[polar_express]",),
    ),
    Mutation(
        "what products are added to is rounded first",
        "ewa_optax/matrices/_orthogonalize.py",
        "_real(b, wide) * gram.astype(wide)",
        "jnp.asarray(b, x.dtype) * gram",
        (
            "tests/matrices/test_stacked_matrices.py::test_half_precision_of_parameters_of_the_iteration_and_of_both[bfloat16-0.02]",
        ),
    ),
    Mutation(
        "the sides of an axis in a batch are swapped",
        "ewa_optax/matrices/_axes.py",
        "shaped = flat.reshape([like.shape[axis] for axis in order]).transpose(places)",
        "shaped = flat.reshape([like.shape[axis] for axis in order]).transpose(order)",
        ("tests/matrices/test_orthogonalize.py::test_each_matrix_is_taken_by_itself_along_the_axes_that_are_said",),
    ),
    Mutation(
        "a kernel below a number has no layer",
        "ewa_optax/matrices/_axes.py",
        '(part for part in reversed(layers) if not part.isdigit()), "")',
        'iter(layers[-1:]), "")',
        (
            "tests/matrices/test_axes.py::test_the_layers_of_real_models_have_their_axes_and_the_rest_is_for_adamw[equinox]",
        ),
    ),
    Mutation(
        "haiku's transposed convolutions are like flax's",
        "ewa_optax/matrices/_axes.py",
        'if name == "w" and "transpose" in layer',
        'if name == "v" and "transpose" in layer',
        (
            "tests/matrices/test_axes.py::test_the_layers_of_real_models_have_their_axes_and_the_rest_is_for_adamw[haiku]",
        ),
    ),
    Mutation(
        "layers in a scan are one convolution",
        "ewa_optax/matrices/_axes.py",
        "if not _SCANNED.search(path):",
        "if True:",
        ("tests/matrices/test_axes.py::test_layers_in_a_scan_are_an_error_until_their_axes_are_said",),
    ),
    Mutation(
        "biases of two axes are matrices",
        "ewa_optax/matrices/_axes.py",
        "if ndim < 2 or NO_MATRIX.search(name):",
        "if ndim < 2:",
        ("tests/matrices/test_axes.py::test_what_is_no_matrix_is_an_error_that_shows_what_to_write[Dense_0/bias]",),
    ),
    Mutation(
        "leaves of a stack may be matrices along different axes",
        "ewa_optax/matrices/_axes.py",
        "if len(found) > 1:",
        "if len(found) > 2:",
        (
            "tests/matrices/test_stacked_matrices.py::test_a_stack_of_matrices_along_different_axes_is_an_error_that_names_them[muon]",
        ),
    ),
    Mutation(
        "init takes stacks of different matrices",
        "ewa_optax/matrices/_axes.py",
        "        check_matrices(who, axes, params)\n        return optax.EmptyState()",
        "        matrices_of(who, axes, params)\n        return optax.EmptyState()",
        (
            "tests/matrices/test_stacked_matrices.py::test_a_stack_of_matrices_along_different_axes_is_an_error_that_names_them[muon]",
        ),
    ),
    Mutation(
        "fit stacks by labels or not at all",
        "ewa_optax/_fit/stacked.py",
        "for apart in (labels, _with_names(labels, params)):",
        "for apart in (labels,):",
        ("tests/matrices/test_stacked_matrices.py::test_fit_stacks_matrices_along_different_axes_apart",),
    ),
    Mutation(
        "the heads of an attention are those of a model",
        "ewa_optax/matrices/_hidden.py",
        " and not _ATTENTION.search(path)",
        "",
        ("tests/matrices/test_axes.py::test_hidden_matrices_are_told_by_names_in_use",),
    ),
    Mutation(
        "factors are of inputs by outputs",
        "ewa_optax/matrices/_shape.py",
        "return math.sqrt(max(1, outputs / max(inputs, 1)))",
        "return math.sqrt(max(1, inputs / max(outputs, 1)))",
        ("tests/matrices/test_orthogonalize.py::test_from_public_pieces_it_is_that_of_optax[jordan-standard]",),
    ),
    Mutation(
        "an output is one of its inputs",
        "ewa_optax/matrices/_norms.py",
        "mean(widen(u), matrix.inputs, keepdims=True)",
        "mean(widen(u), matrix.outputs, keepdims=True)",
        (oracle("normuon"),),
    ),
    Mutation(
        "a batch of matrices has one norm",
        "ewa_optax/matrices/_norms.py",
        "return norm(x, axis=matrix.both)",
        "return norm(x, axis=(*range(x.ndim),))",
        ("tests/matrices/test_orthogonalize.py::test_no_matrix_of_a_batch_sees_the_others[muon_hyperball]",),
    ),
    Mutation(
        "XLA divides the products of a single matrix",
        "ewa_optax/matrices/_devices.py",
        "made = place(function(*(y if y is None else divided(y) for y in (x, *others))), spec)",
        "made = function(*(y if y is None else divided(y) for y in (x, *others)))",
        (f"{MESHES}test_a_step_is_that_of_one_device_and_leaves_parameters_where_they_lie[muon-Auto]",),
    ),
    Mutation(
        "matrices stay in parts",
        "ewa_optax/matrices/_devices.py",
        "names if i == axis else None for i in range(x.ndim)",
        "came[i] if i < len(came) else None for i in range(x.ndim)",
        (f"{MESHES}test_devices_have_whole_matrices_and_no_step_exchanges[24x8x16 by -a-Explicit]",),
    ),
    # Bases.
    Mutation(
        "columns of a basis change places, and what is kept of squares does not",
        "ewa_optax/matrices/_eigenbasis.py",
        "sorted_basis, jnp.argsort(order, axis=-1), axis=-1",
        "sorted_basis, jnp.argsort(jnp.argsort(order, axis=-1), axis=-1), axis=-1",
        ("tests/matrices/test_eigenbasis.py::test_soap_equals_the_code_of_its_paper",),
    ),
    Mutation(
        "orthogonal iteration does not sort",
        "ewa_optax/matrices/_eigenbasis.py",
        "order = jnp.argsort(sizes, axis=-1, descending=True)",
        "order = jnp.argsort(sizes * 0, axis=-1, descending=True)",
        ("tests/matrices/test_eigenbasis.py::test_soap_equals_the_code_of_its_paper",),
    ),
    Mutation(
        "the first gradient is averaged in no basis",
        "ewa_optax/matrices/_eigenbasis.py",
        "is_first = step == 1",
        "is_first = step == 0",
        ("tests/matrices/test_eigenbasis.py::test_the_first_step_makes_the_basis_and_nothing_else",),
    ),
    Mutation(
        "bases are renewed a step late",
        "ewa_optax/matrices/_eigenbasis.py",
        "(step - 1) % every == 0",
        "step % every == 0",
        ("tests/matrices/test_eigenbasis.py::test_soap_equals_the_code_of_its_paper",),
    ),
    # Arithmetic on one array.
    Mutation(
        "a short average starts from the past, and drowns small values",
        "ewa_optax/_numerics.py",
        "if decay >= 0.5 else value + past",
        "if decay >= 0.0 else value + past",
        ("tests/optimizers/test_exactness.py::test_short_averages_do_not_drown_small_gradients_in_large_ones",),
    ),
    Mutation(
        "the sum of weights loses the digits of a long memory",
        "ewa_optax/_numerics.py",
        "else -jnp.expm1(t * math.log(decay))",
        "else 1 - jnp.exp(t * math.log(decay))",
        ("tests/optimizers/test_exactness.py::test_adam_equals_float64_at_every_age_and_decay",),
    ),
    Mutation(
        "a decay that is rounded to 1 gives nearly the plain mean",
        "ewa_optax/_numerics.py",
        "jnp.where(decay < 1, newest / total, 1 / t)",
        "jnp.where(decay < 1, newest / total, 1 / (t + 1))",
        ("tests/optimizers/test_exactness.py::test_a_decay_that_rounds_to_one_gives_the_plain_mean",),
    ),
    Mutation(
        "the squared magnitude of a complex number is its square",
        "ewa_optax/_numerics.py",
        "(x.conj() * x).real",
        "(x * x).real",
        ("tests/optimizers/test_contract.py::test_equals_its_oracle_of_complex_numbers[adam]",),
    ),
    Mutation(
        "what is too large for a narrow dtype becomes infinity",
        "ewa_optax/_numerics.py",
        "x = clip(x, largest(dtype))",
        "x = clip(x, largest(x.dtype))",
        (mix("momentum"),),
    ),
    Mutation(
        "a counter wraps round at its end",
        "ewa_optax/_numerics.py",
        "jnp.asarray(optax.safe_increment(count))",
        "jnp.asarray(count) + 1",
        (CONTRACT + "test_a_counter_at_its_end_stays_there",),
    ),
    # Averages and what is made of them.
    Mutation(
        "the correction of the bias does not look ahead",
        "ewa_optax/pieces/_bias_correction.py",
        "increment(step) if ahead else step",
        "step if ahead else step",
        (oracle("nadam"),),
    ),
    Mutation(
        "the corrected average is one step older than it is",
        "ewa_optax/pieces/_averages.py",
        "at = functools.partial(corrected_shares, decay)",
        "at = lambda step: corrected_shares(decay, step + 1)",
        (oracle("laprop"),),
    ),
    Mutation(
        "a maximum that should fade does not",
        "ewa_optax/pieces/_averages.py",
        "fresh = jnp.maximum(faded, value)",
        "fresh = jnp.maximum(average, value)",
        (oracle("adamax"),),
    ),
    Mutation(
        "Yogi's average moves by itself, not by the new value",
        "ewa_optax/pieces/_averages.py",
        "jnp.sign(average - value) * (newest * value)",
        "jnp.sign(average - value) * (newest * average)",
        (oracle("yogi"),),
    ),
    Mutation(
        "the first difference is the first update, not 0",
        "ewa_optax/pieces/_averages.py",
        "jnp.where(step == 1, jnp.zeros_like(value), value - last)",
        "jnp.where(step == 0, jnp.zeros_like(value), value - last)",
        (oracle("adan"),),
    ),
    Mutation(
        "AdaDelta averages the squares of what came, not of what left",
        "ewa_optax/pieces/_averages.py",
        "lerp(average, squared_magnitude(out), decay",
        "lerp(average, squared_magnitude(value), decay",
        (oracle("adadelta"),),
    ),
    Mutation(
        "the two eps of a root mean square change places",
        "ewa_optax/pieces/_rms.py",
        "_plus(jnp.sqrt(_plus(s, eps_root)), eps)",
        "_plus(jnp.sqrt(_plus(s, eps)), eps_root)",
        (oracle("adam_eps_root"),),
    ),
    Mutation(
        "RAdam's length loses its digits in the first steps",
        "ewa_optax/pieces/_rms.py",
        "jnp.where(t * a < 1, early, late)",
        "jnp.where(t * a < 0, early, late)",
        ("tests/optimizers/test_family.py::test_the_length_of_radam_keeps_its_digits",),
    ),
    Mutation(
        "RAdam begins to divide a little later",
        "ewa_optax/pieces/_rms.py",
        "length > jnp.maximum(threshold, 4.0)",
        "length > jnp.maximum(threshold, 5.0)",
        ("tests/optimizers/test_family.py::test_the_length_of_radam_keeps_its_digits",),
    ),
    Mutation(
        "AdEMAMix's half-life grows a step late",
        "ewa_optax/pieces/_decay_schedules.py",
        "jnp.minimum(t / _whole(steps), 1.0) * (end - begin)",
        "jnp.minimum((t - 1) / _whole(steps), 1.0) * (end - begin)",
        ("tests/optimizers/test_family.py::test_the_half_life_of_ademamix_grows_linearly",),
    ),
    Mutation(
        "the step of Adafactor is a step late, which shows after 10 000",
        "ewa_optax/pieces/_decay_schedules.py",
        "jax.lax.rsqrt(jnp.asarray(count, float) + 1)",
        "jax.lax.rsqrt(jnp.asarray(count, float))",
        ("tests/optimizers/test_family.py::test_the_step_of_adafactor_is_the_papers",),
    ),
    Mutation(
        "gradients saturate at the square root of all there is, not of a quarter",
        "ewa_optax/pieces/_optimizer.py",
        "(largest(u.dtype) / 4) ** (1 / power) / terms",
        "largest(u.dtype) ** (1 / power) / terms",
        (mix("momentum"),),
    ),
    Mutation(
        "the squares of a large layer overflow in their sum",
        "ewa_optax/pieces/_optimizer.py",
        "largest(u.dtype) / 4 / max(u.size, 1)",
        "largest(u.dtype) / 4",
        ("tests/optimizers/test_family.py::test_a_large_layer_of_spikes",),
    ),
    # The expressions of the family.
    Mutation(
        "Nadam corrects the newest gradient as if it were a step older",
        "ewa_optax/pieces/_bias_correction.py",
        "scale_once(optax.scale(shares(b1)[1]), bias_correct(b1))",
        "scale_once(optax.scale(shares(b1)[1]), bias_correct_ahead(b1))",
        (oracle("nadam"),),
    ),
    Mutation(
        "AdaMax keeps squares, but fades them as sizes",
        "ewa_optax/_optimizers/adam.py",
        "running_max(b2 * b2, second_moment(storage))",
        "running_max(b2, second_moment(storage))",
        (oracle("adamax"),),
    ),
    Mutation(
        "AdaBelief adds its inner eps once, not at each step",
        "ewa_optax/_optimizers/adam.py",
        "eps_root=eps_root / shares(b2)[1]",
        "eps_root=eps_root",
        (oracle("adabelief"),),
    ),
    Mutation(
        "AdEMAMix corrects the bias of its slow average",
        "ewa_optax/_optimizers/adam.py",
        "n = scale_by_ewa_of_share(share_of_growing_half_life(b1, b3, warmup), first_moment(storage), decay=b3)",
        "n = scale_by_corrected_ewa(b3, first_moment(storage))",
        (oracle("ademamix"),),
    ),
    Mutation(
        "the sum of the heavy ball overflows under steady gradients",
        "ewa_optax/_optimizers/momentum.py",
        "optax.scale(k)), guard=saturate(terms=k)",
        "optax.scale(k)), guard=saturate()",
        ("tests/optimizers/test_family.py::test_steady_spikes",),
    ),
    Mutation(
        "centered RMSprop scales its variance by the decay, not by its inverse",
        "ewa_optax/_optimizers/rmsprop.py",
        "optax.scale(1 / decay)",
        "optax.scale(decay)",
        (oracle("rmsprop_centered"),),
    ),
    Mutation(
        "NovoGrad takes the second square for the first too",
        "ewa_optax/pieces/_decay_schedules.py",
        "jnp.where(t == 1, 1.0, shares(decay)[1])",
        "jnp.where(t <= 2, 1.0, shares(decay)[1])",
        (oracle("novograd"),),
    ),
    # Weight decay, and layers.
    Mutation(
        "proximal weight decay grows what it should shrink",
        "ewa_optax/pieces/_weight_decay.py",
        "number / (1 - rate * number)",
        "number / (1 + rate * number)",
        (oracle("adan"),),
    ),
    Mutation(
        "LARS asks its schedule of weight decay for the next step",
        "ewa_optax/pieces/_layerwise.py",
        "rate = weight_decay_at(weight_decay, step - 1)",
        "rate = weight_decay_at(weight_decay, step)",
        ("tests/optimizers/test_family.py::test_weight_decay_may_be_a_schedule",),
    ),
    Mutation(
        "a layer of zeros never moves",
        "ewa_optax/pieces/_layerwise.py",
        "jnp.where((size == 0) | (own == 0), 1.0, coefficient",
        "jnp.where(own == 0, 1.0, coefficient",
        ("tests/optimizers/test_family.py::test_a_layer_of_zeros_moves",),
    ),
    Mutation(
        "the clip by a root mean square multiplies by its threshold",
        "ewa_optax/pieces/_layerwise.py",
        "_rms(u) / threshold",
        "_rms(u) * threshold",
        ("tests/optimizers/test_family.py::test_clip_by_rms",),
    ),
    Mutation(
        "a norm squares without a scale",
        "ewa_optax/_numerics.py",
        "jax.lax.optimization_barrier([part * scale for part in parts])",
        "parts",
        ("tests/optimizers/test_exactness.py::test_parameters_of_any_size",),
    ),
    Mutation(
        "columns are kept in the place of rows",
        "ewa_optax/pieces/_layerwise.py",
        "((None, *summary) if",
        "((None, *summary[::-1]) if",
        ("tests/test_since_0_1_0.py::test_checkpoints_keep_states_as_they_did", oracle("adafactor")),
    ),
    Mutation(
        "the peak of a step whose old parameters stay beside the new ones",
        "ewa_optax/_states/peak_bytes.py",
        "donate_argnums=(0, 1)",
        "donate_argnums=(1,)",
        (
            "tests/storage/test_peak_bytes.py::test_parameters_gradients_and_averages_are_there_at_once",
            "tests/storage/test_peak_bytes.py::test_nothing_is_allocated",
        ),
    ),
    Mutation(
        "the peak of a step without gradients",
        "ewa_optax/_states/peak_bytes.py",
        "jax.lax.fori_loop(0, turns, lambda _, gradients: jax.tree.map(jnp.negative, gradients), zeros)",
        "zeros",
        ("tests/storage/test_peak_bytes.py::test_parameters_gradients_and_averages_are_there_at_once",),
    ),
    # The order of the shuffle.
    Mutation(
        "both sides of the grid are odd for some sizes",
        "ewa_optax/minibatch/_order.py",
        "a += a % 2",
        "a += 1 - a % 2",
        ("tests/minibatch/test_order.py::test_it_is_the_formula_and_has_an_inverse_for_sizes_up_to_the_largest",),
    ),
    Mutation(
        "a large order has four rounds instead of six",
        "ewa_optax/minibatch/_order.py",
        "max(6, 2 * math.ceil(48",
        "max(4, 2 * math.ceil(48",
        ("tests/minibatch/test_order.py::test_it_is_random_access_and_stores_nothing",),
    ),
    Mutation(
        "the hash shifts by one bit more",
        "ewa_optax/minibatch/_order.py",
        "return x ^ (x >> 13)",
        "return x ^ (x >> 14)",
        ("tests/minibatch/test_order.py::test_it_is_the_formula_and_has_an_inverse_for_sizes_up_to_the_largest",),
    ),
    Mutation(
        "who lands on the first cell beyond the examples stays there",
        "ewa_optax/minibatch/_order.py",
        "lambda cells: jnp.any(cells >= n)",
        "lambda cells: jnp.any(cells > n)",
        ("tests/minibatch/test_order.py::test_it_takes_every_example_once_for_all_sizes",),
    ),
    Mutation(
        "of 512 examples the order is sorted",
        "ewa_optax/minibatch/_order.py",
        "n >= BIJECTION_FROM",
        "n > BIJECTION_FROM",
        ("tests/minibatch/test_order.py::test_the_default_is_the_bijection_from_512_examples_on",),
    ),
    Mutation(
        "steps have the same keys in every epoch",
        "ewa_optax/minibatch/_order.py",
        "return order_key, other_key",
        "return order_key, jax.random.split(key)[1]",
        ("tests/fit/test_fit.py::test_each_step_gets_a_key_of_its_own_and_aux_comes_back",),
    ),
    # Storages.
    Mutation(
        "codes of 8 bits are rounded to nearest before they are rounded by chance",
        "ewa_optax/storage/_blocks.py",
        "jnp.floor(root * self._top)",
        "jnp.round(root * self._top)",
        ("tests/storage/test_storage.py::test_rounding_to_codes_is_unbiased",),
    ),
    Mutation(
        "a small square has the code of 0",
        "ewa_optax/storage/_blocks.py",
        "bits_as(jnp.int32, _WHOLE) + (size > 0).astype(jnp.int32)",
        "bits_as(jnp.int32, _WHOLE) + (size > 1).astype(jnp.int32)",
        ("tests/storage/test_storage.py::test_a_second_moment_is_never_rounded_to_zero",),
    ),
    Mutation(
        "codes of 8 bits stand for shares of 126",
        "ewa_optax/storage/_blocks.py",
        "return 255 if self.squares else 127",
        "return 255 if self.squares else 126",
        ("tests/storage/test_storage.py::test_codes_stand_for_the_powers_that_they_should",),
    ),
    Mutation(
        "the last of 24 bits is cut off, not rounded",
        "ewa_optax/storage/_formats.py",
        "shared(round_bits(average, 8, bits))",
        "shared(round_bits(average, 7, bits))",
        ("tests/storage/test_storage.py::test_second_moments_follow_gradients_down[24bit-0.9999]",),
    ),
    Mutation(
        "the last bit of a bfloat16 is cut off, not rounded",
        "ewa_optax/storage/_formats.py",
        "_upper_half(round_bits(average, 16, bits))",
        "_upper_half(round_bits(average, 15, bits))",
        ("tests/storage/test_storage.py::test_rounding_is_unbiased_in_every_binade",),
    ),
    Mutation(
        "the grid of subnormal float16 numbers is too fine",
        "ewa_optax/storage/_formats.py",
        "2.0**-14) * 2.0**-10",
        "2.0**-15) * 2.0**-10",
        ("tests/storage/test_storage.py::test_rounding_is_unbiased_in_every_binade",),
    ),
    Mutation(
        "squares in float16 saturate as early as gradients",
        "ewa_optax/storage/_formats.py",
        "top**2 if self.squares else top",
        "top if self.squares else top",
        ("tests/storage/test_storage.py::test_squares_in_float16",),
    ),
    Mutation(
        "rows and columns change places",
        "ewa_optax/storage/_formats.py",
        "return mean(x, -1), mean(x, -2)",
        "return mean(x, -2), mean(x, -1)",
        (
            "tests/storage/test_storage.py::test_factors_are_exact_for_a_product_and_right_in_the_mean_of_rows_and_columns",
        ),
    ),
    Mutation(
        "factors have the mean of the longer, which devices sum once more",
        "ewa_optax/storage/_formats.py",
        "rows if rows.shape[-1] <= columns.shape[-1] else columns",
        "columns if rows.shape[-1] <= columns.shape[-1] else rows",
        ("tests/states/test_state_shardings.py::test_no_collective_that_optax_lacks",),
    ),
    Mutation(
        "a leaf of just the least size stays float32",
        "ewa_optax/storage/_storage.py",
        "math.prod(shape) >= max(self.min_size, 1)",
        "math.prod(shape) > max(self.min_size, 1)",
        ("tests/storage/test_storage.py::test_small_leaves_stay_float32",),
    ),
    Mutation(
        "blocks that would divide an axis are looked for below half",
        "ewa_optax/storage/_blocks.py",
        "range(most, most // 2, -1)",
        "range(most, 0, -1)",
        ("tests/storage/test_storage.py::test_codes_keep_the_shape_and_scales_are_per_block",),
    ),
    # How states lie.
    Mutation(
        "blocks of a short axis are not made to fit shards",
        "ewa_optax/storage/_blocks.py",
        "for parts in (8, 4, 2, 1):",
        "for parts in (1, 2, 4, 8):",
        ("tests/storage/test_storage.py::test_codes_keep_the_shape_and_scales_are_per_block",),
    ),
    Mutation(
        "codes are decoded by the blocks of the storage, not by those that they were made with",
        "ewa_optax/storage/_blocks.py",
        "return dataclasses.replace(self, block=n // blocks)",
        "return self",
        ("tests/states/test_state_shardings.py::test_a_block_that_a_shard_would_cut_is_told",),
    ),
    Mutation(
        "where arrays lie is not asked",
        "ewa_optax/storage/_sharding.py",
        "return (*parts, *(1,) * (ndim - len(parts)))",
        "return (1,) * ndim",
        ("tests/states/test_state_shardings.py::test_a_block_that_a_shard_would_cut_is_told",),
    ),
    Mutation(
        "state_shardings does not look for blocks that are cut",
        "ewa_optax/_states/state_shardings.py",
        "if cut and AxisType.Explicit not in mesh.axis_types:",
        "if cut and AxisType.Explicit in mesh.axis_types:",
        ("tests/states/test_state_shardings.py::test_a_block_that_a_shard_would_cut_is_told",),
    ),
    Mutation(
        "boxes keep the names of axes that what is in them has not",
        "ewa_optax/storage/_sharding.py",
        "return tuple(names[axis] if axis is not None and axis < len(names) else None for axis in axes[0])",
        "return tuple(names)",
        ("tests/states/test_state_shardings.py::test_nnx_models_that_say_how_they_are_divided",),
    ),
    Mutation(
        "parts in shard_map are taken for wholes in more blocks",
        "ewa_optax/storage/_kept.py",
        "if (axes := manual_axes()) and not _is_part(storage, arrays, axes):",
        "if (axes := manual_axes()) and not axes:",
        ("tests/storage/test_storage.py::test_parts_that_cut_blocks_are_told",),
    ),
    Mutation(
        "of several blocks that are cut, one that fits some is told",
        "ewa_optax/_states/state_shardings.py",
        "if all(_is_uncut(n, *x) for x in kept.values())]",
        "if any(_is_uncut(n, *x) for x in kept.values())]",
        ("tests/states/test_state_shardings.py::test_blocks_of_several_lengths_are_told_together",),
    ),
    Mutation(
        "a checkpoint from before factors had a mean is of another run",
        "ewa_optax/storage/_checkpoints.py",
        "Encoded(x.arrays[:2]) if _has_means(x) else x",
        "x",
        ("tests/test_since_0_1_0.py::test_checkpoints_keep_states_as_they_did",),
    ),
    Mutation(
        "the mean of old factors stays 0",
        "ewa_optax/storage/_checkpoints.py",
        "else Factors.of(*pair).mean",
        "else old",
        ("tests/test_since_0_1_0.py::test_checkpoints_from_before_factors_had_a_mean_are_resumed",),
    ),
    Mutation(
        "parts of factors in shard_map are looked for blocks",
        "ewa_optax/storage/_kept.py",
        "if type(storage).as_kept is Storage.as_kept:",
        "if False:",
        ("tests/storage/test_storage.py::test_factors_in_shard_map",),
    ),
    Mutation(
        "a step that is not made has zeros that lie as the gradients do",
        "ewa_optax/_wrappers/conditional.py",
        "if any(map(_is_placed, jax.tree.leaves(updates))) else updates",
        "if False else updates",
        ("tests/wrappers/test_accumulate.py::test_on_an_explicit_mesh_gradients_may_lie_everywhere",),
    ),
    Mutation(
        "checkpoints keep what stands for nothing",
        "ewa_optax/pieces/_layerwise.py",
        "state = without_fillers(state)",
        "state = state",
        ("tests/test_since_0_1_0.py::test_checkpoints_keep_states_as_they_did",),
    ),
    # Rounding by chance.
    Mutation(
        "the largest finite number is rounded to infinity",
        "ewa_optax/storage/_rounding.py",
        "_INFINITY - np.uint32(1)) & coarse",
        "_INFINITY) & coarse",
        ("tests/storage/test_storage.py::test_the_largest_numbers_stay_finite",),
    ),
    Mutation(
        "numbers go up only where chance and rest are large",
        "ewa_optax/storage/_rounding.py",
        "bits >> (32 - drop)",
        "bits >> (33 - drop)",
        ("tests/storage/test_storage.py::test_rounding_is_unbiased_in_every_binade",),
    ),
    Mutation(
        "codes go up as often as if they were evenly spaced",
        "ewa_optax/storage/_rounding.py",
        "uniform * (above - below) < x - below",
        "uniform * unit < x - below",
        ("tests/storage/test_storage.py::test_rounding_to_codes_is_unbiased",),
    ),
    Mutation(
        "a key gives the numbers of another one at an offset",
        "ewa_optax/_random_bits.py",
        "index * (_mix(key) | np.uint32(1)) + key",
        "index + key",
        ("tests/storage/test_storage.py::test_no_key_gives_the_sequence_of_another_at_an_offset",),
    ),
    Mutation(
        "an average that is to be written down is not",
        "ewa_optax/storage/_in_turn.py",
        "jax.lax.cond(token == 0, yes, no)",
        "yes()",
        ("tests/storage/test_in_turn.py::test_a_step_decodes_one_average_of_one_leaf_at_a_time",),
    ),
    Mutation(
        "leaves do not wait for the one before",
        "ewa_optax/storage/_in_turn.py",
        "                token = first\n",
        "",
        ("tests/storage/test_in_turn.py",),
    ),
    Mutation(
        "averages of 16 bits are kept before the parameter is there",
        "ewa_optax/storage/_in_turn.py",
        "_after(first, a) if a.dtype in _NARROW else a",
        "a",
        ("tests/storage/test_in_turn.py::test_given_gradients_take_no_more_than_one_leaf_besides",),
    ),
    Mutation(
        "an optimizer in an optimizer takes its leaves in turn by itself",
        "ewa_optax/storage/_in_turn.py",
        "if _WITHIN.get():",
        "if False:",
        ("tests/storage/test_in_turn.py::test_an_optimizer_in_an_optimizer_computes_nothing_twice",),
    ),
    Mutation(
        "what is printed has no order of its own",
        "ewa_optax/storage/_in_turn.py",
        "if closed.effects:",
        "if False:",
        ("tests/storage/test_in_turn.py::test_what_is_printed_is_printed_in_its_order",),
    ),
    Mutation(
        "a step in turn has no derivatives",
        "ewa_optax/storage/_in_turn.py",
        "return x - jax.lax.bitcast_convert_type(zero, jnp.float32).astype(x.dtype)",
        "return jax.lax.stop_gradient(x)",
        ("tests/storage/test_in_turn.py::test_a_gradient_of_a_step_is_that_of_one_that_is_not_in_turn",),
    ),
    Mutation(
        "leaves whose programs differ in a number share one",
        "ewa_optax/storage/_dataflow.py",
        "others.append(x)\n            inputs.append(value)",
        "others.append(others[0] if others else x)\n            inputs.append(value)",
        ("tests/storage/test_in_turn.py::test_every_optimizer_keeps_the_same_codes_leaf_after_leaf",),
    ),
    Mutation(
        "XLA may compute what a storage of one's own makes of zeros",
        "ewa_optax/storage/_storage.py",
        "jax.lax.optimization_barrier((average, HALF))",
        "average, HALF",
        ("tests/storage/test_first_state.py::test_no_constant_in_its_program_has_the_size_of_a_leaf",),
    ),
    Mutation(
        "the first state is what a storage of the library encodes",
        "ewa_optax/storage/_storage.py",
        "if type(self).encode in _ZEROS_OF_ZEROS else kept",
        "if type(self).encode in () else kept",
        ("tests/storage/test_first_state.py::test_of_the_storages_of_the_library_it_is_made_of_nothing",),
    ),
    Mutation(
        "the first state is zeros whatever a storage makes of them",
        "ewa_optax/storage/_storage.py",
        "if type(self).encode in _ZEROS_OF_ZEROS else kept",
        "if self.encode else kept",
        ("tests/storage/test_first_state.py::test_it_is_what_the_storage_makes_of_zeros",),
    ),
    Mutation(
        "the first state does not lie where its parameters do",
        "ewa_optax/storage/_encoding.py",
        "_first_in_parts if like is p and len(p.devices()) > 1 else _first",
        "_first",
        ("tests/storage/test_first_state.py::test_it_lies_where_the_averages_of_such_parameters_lie",),
    ),
    Mutation(
        "outside of jit zeros are made of an array that is there",
        "ewa_optax/storage/_encoding.py",
        "p if isinstance(p, jax.Array) and not isinstance(p, jax.core.Tracer) else _zeros(p)",
        "_zeros(p)",
        ("tests/storage/test_first_state.py::test_outside_of_jit_nobody_holds_zeros_of_many_leaves",),
    ),
    Mutation(
        "in shard_map it is asked of a part whether an array is small",
        "ewa_optax/storage/_kept.py",
        "return takes_together(_varying(x))",
        "return storage.takes(shape)",
        ("tests/storage/test_storage.py::test_parts_in_shard_map_are_kept_as_their_whole_is",),
    ),
    Mutation(
        "all leaves are rounded by the same chance",
        "ewa_optax/storage/_encoding.py",
        "key_of(int(self.storage.seed), self.piece, name)",
        "key_of(int(self.storage.seed), self.piece)",
        ("tests/storage/test_storage.py::test_leaves_moments_and_steps_of_adam_are_rounded_independently",),
    ),
    Mutation(
        "two averages in one chain are rounded by the same chance",
        "ewa_optax/storage/_encoding.py",
        "fold(key, decay, step)",
        "fold(key, step)",
        ("tests/storage/test_storage.py::test_averages_of_two_decays_in_one_chain",),
    ),
    Mutation(
        "squares are rounded by the chance of gradients",
        "ewa_optax/storage/_argument.py",
        "_apart(for_squares(_pair(storage)[1]), -1)",
        "_apart(for_squares(_pair(storage)[1]), 0)",
        ("tests/optimizers/test_family.py::test_no_two_averages_are_rounded_by_the_same_chance",),
    ),
    Mutation(
        "of a pair of storages squares take the first",
        "ewa_optax/storage/_argument.py",
        "for_squares(_pair(storage)[1])",
        "for_squares(_pair(storage)[0])",
        (
            "tests/optimizers/test_family.py::test_of_a_pair_of_storages_the_first_is_for_gradients_and_the_second_for_squares",
        ),
    ),
    # Mini-batches, and the loops over them.
    Mutation(
        "the first example of the padding counts",
        "ewa_optax/minibatch/_batches.py",
        "(positions < part)",
        "(positions <= part)",
        ("tests/minibatch/test_minibatch.py::test_a_masked_last_batch_is_a_kept_one",),
    ),
    Mutation(
        "steps that are gathered together have keys of their place in there",
        "ewa_optax/minibatch/_batches.py",
        "jax.random.fold_in(step_key, t), steps)",
        "jax.random.fold_in(step_key, t), steps - first)",
        ("tests/fit/test_fit.py::test_each_step_gets_a_key_of_its_own_and_aux_comes_back",),
    ),
    Mutation(
        "all shards are shuffled alike",
        "ewa_optax/minibatch/_batches.py",
        "key=jax.random.fold_in(key, s)",
        "key=jax.random.fold_in(key, 0 * s)",
        ("tests/minibatch/test_minibatch.py::test_each_batch_takes_its_share_of_every_shard",),
    ),
    Mutation(
        "the smaller last batch begins a batch early",
        "ewa_optax/minibatch/_loops.py",
        "batches.gathered(data, shuffle, batches.full_steps, 1, batches.last_size)",
        "batches.gathered(data, shuffle, batches.full_steps - 1, 1, batches.last_size)",
        ("tests/minibatch/test_minibatch.py::test_every_loop_and_every_number_of_shards_sees_the_same",),
    ),
    Mutation(
        "fed batches of files leave out the place of their shard",
        "ewa_optax/minibatch/_arrays.py",
        "(np.asarray(rows) + parts).reshape(-1)",
        "(np.asarray(rows) + 0 * parts).reshape(-1)",
        ("tests/fit/test_fit.py::test_memory_mapped_arrays_are_as_others",),
    ),
    Mutation(
        "fit's smaller last batch begins a batch early",
        "ewa_optax/minibatch/_engines.py",
        'batches.gathered(data, state["shuffle"], batches.full_steps, 1, batches.last_size)',
        'batches.gathered(data, state["shuffle"], batches.full_steps - 1, 1, batches.last_size)',
        ("tests/fit/test_fit.py::test_it_is_the_loop_by_hand",),
    ),
    Mutation(
        "epochs in one program are all shuffled as the first",
        "ewa_optax/minibatch/_engines.py",
        '"shuffle": batches.shuffle(key, epoch)}',
        '"shuffle": state["shuffle"]}',
        ("tests/fit/test_fit.py::test_it_is_the_loop_by_hand",),
    ),
    Mutation(
        "a stretch takes the order of another epoch",
        "ewa_optax/minibatch/_engines.py",
        "if at != epoch:",
        "if at < 0:",
        ("tests/fit/test_one_program.py::test_a_bad_step_in_a_later_epoch_ends_with_the_last_finite_state",),
    ),
    Mutation(
        "numbers of another kind of place are taken for each other",
        "ewa_optax/_shared_programs.py",
        "return scalars[kind][i]",
        "return scalars[kind][0]",
        ("tests/fit/test_one_program.py::test_the_numbers_are_those_of_each_optimizer",),
    ),
    Mutation(
        "optimizers of unlike arithmetic share a program",
        "ewa_optax/_shared_programs.py",
        "what = (x.primitive.name, self._value(x.params))",
        "what = (x.primitive.name, 0)",
        ("tests/fit/test_one_program.py::test_other_arithmetic_is_another_program",),
    ),
    Mutation(
        "steps that are run again run on to the end of what is kept",
        "ewa_optax/minibatch/_engines.py",
        "self._kept[: stop - start] if again",
        "self._kept if again",
        ("tests/fit/test_fit.py::test_a_nan_in_an_iterable_ends_with_the_last_finite_state",),
    ),
    Mutation(
        "a step in place overwrites what the caller gave",
        "ewa_optax/minibatch/_epoch.py",
        "carry = jax.tree.map(jnp.array, carry)",
        "carry = jax.tree.map(jnp.asarray, carry)",
        ("tests/minibatch/test_minibatch.py::test_what_is_given_is_left_as_it_is",),
    ),
    Mutation(
        "pure training goes on with the order of the first epochs",
        "ewa_optax/minibatch/_train.py",
        "epoch + jnp.arange(epochs)",
        "0 * epoch + jnp.arange(epochs)",
        ("tests/fit/test_fit.py::test_train_goes_on_where_it_ended",),
    ),
    # What fit does between the steps.
    Mutation(
        "the cost of an epoch is a mean over batches, not over examples",
        "ewa_optax/_fit/result.py",
        "np.average(costs[known], weights=examples[known])",
        "np.average(costs[known])",
        ("tests/fit/test_fit.py::test_it_is_the_loop_by_hand",),
    ),
    Mutation(
        "patience lasts an epoch longer",
        "ewa_optax/_fit/fit.py",
        "since_best >= patience",
        "since_best > patience",
        ("tests/fit/test_fit.py::test_validation_early_stopping_and_the_best",),
    ),
    Mutation(
        "an epoch of an iterable is saved before it is closed",
        "ewa_optax/_fit/fit.py",
        "if run.step != engine.steps and not (run.step and engine.ended):",
        "if run.step != engine.steps:",
        ("tests/fit/test_resume.py::test_an_iterable_that_is_over_is_not_closed_again",),
    ),
    Mutation(
        "the last steps before a NaN are looked for one short",
        "ewa_optax/_fit/loop.py",
        "range(1, bad + 1)",
        "range(1, bad)",
        ("tests/fit/test_fit.py::test_a_nan_ends_with_the_last_finite_state",),
    ),
    Mutation(
        "a state that begins with an infinity ends the run",
        "ewa_optax/_fit/loop.py",
        "jnp.isfinite(new) | ~jnp.isfinite(old)",
        "jnp.isfinite(new)",
        ("tests/fit/test_resume.py::test_a_state_may_stay_infinite",),
    ),
    Mutation(
        "checkpoints drift away from every so many steps",
        "ewa_optax/_fit/loop.py",
        "every - len(run.history.costs) % every",
        "every",
        ("tests/fit/test_resume.py::test_checkpoints_are_of_every_so_many_steps",),
    ),
    Mutation(
        "an iterable's keys begin anew at a resume",
        "ewa_optax/minibatch/_iterables.py",
        "start, None), start):",
        "start, None)):",
        ("tests/fit/test_resume.py::test_an_iterable_that_is_interrupted_in_mid_epoch_goes_on",),
    ),
    Mutation(
        "a checkpoint has the last parameters for the best",
        "ewa_optax/_fit/checkpoint.py",
        '"best_params": run.best_params}',
        '"best_params": None if run.best_params is None else run.params}',
        ("tests/fit/test_resume.py::test_early_stopping_goes_on_counting",),
    ),
    Mutation(
        "a resume takes the steps of its epoch again",
        "ewa_optax/_fit/checkpoint.py",
        'step=at["step"])',
        "step=0)",
        ("tests/fit/test_resume.py::test_an_interrupted_run_goes_on",),
    ),
    Mutation(
        "the last batch of the validation begins too early",
        "ewa_optax/minibatch/_arrays.py",
        "[of(batches.full_steps, batches.last_size)[None]]",
        "[of(0, batches.last_size)[None]]",
        ("tests/fit/test_fit.py::test_validation_data_of_every_form_is_a_mean_over_examples",),
    ),
    Mutation(
        "the validation is a mean over batches, not over examples",
        "ewa_optax/minibatch/_evaluation.py",
        "np.float64), weights=sizes",
        "np.float64), weights=None",
        ("tests/fit/test_fit.py::test_validation_data_of_every_form_is_a_mean_over_examples",),
    ),
    Mutation(
        "a suggested batch size is twice what fits",
        "ewa_optax/minibatch/_batch_size.py",
        "1 << (fits.bit_length() - 1)",
        "1 << fits.bit_length()",
        ("tests/fit/test_fit.py::test_suggested_batch_sizes",),
    ),
    # Series.
    Mutation(
        "what rounding loses of a step of a recurrence is lost",
        "ewa_optax/series/_recurrence.py",
        "lost = jnp.where(short, 0, change - (fresh - value))",
        "lost = jnp.where(short, 0, 0 * change)",
        ("tests/series/test_series.py::test_a_long_recurrence_does_not_stall",),
    ),
    Mutation(
        "a group of blocks takes its own sums for those before it",
        "ewa_optax/series/_blocks.py",
        "_triangle(fading, group, step, 1)",
        "_triangle(fading, group, step, 0)",
        ("tests/series/test_series.py::test_any_length",),
    ),
    Mutation(
        "values are taken as they are, not by what they differ from their level",
        "ewa_optax/series/_blocks.py",
        "high - low < jnp.abs(median) / 4",
        "high - low < -jnp.abs(median) / 4",
        ("tests/series/test_series.py::test_small_changes_of_large_values_keep_their_digits",),
    ),
    Mutation(
        "sums of some blocks fade in the wrong order",
        "ewa_optax/series/_blocks.py",
        "fading.powers(step * k[::-1])",
        "fading.powers(step * k)",
        ("tests/series/test_series.py::test_means_are_those_of_pandas",),
    ),
    Mutation(
        "a piece that overlaps the one before begins with its end",
        "ewa_optax/series/_blocks.py",
        "jnp.where(i == pieces - 1, length, following - start) - 1",
        "length - 1",
        ("tests/series/test_series.py::test_any_length",),
    ),
    Mutation(
        "a huge value is left in a sum when it is long forgotten",
        "ewa_optax/series/_rows.py",
        "jnp.clip(1 / fading.share, 1, ROWS)",
        "jnp.clip(1 / fading.share, ROWS, ROWS)",
        ("tests/series/test_series.py::test_one_huge_value_is_forgotten",),
    ),
    Mutation(
        "where gaps count as no time, weights fade in them",
        "ewa_optax/series/_gaps.py",
        "faded, kept = jnp.where(observed, faded, 0), jnp.where(observed, kept, 1)",
        "faded, kept = faded + 0 * observed, kept + 0 * observed",
        ("tests/series/test_series.py::test_means_are_those_of_pandas",),
    ),
    Mutation(
        "a value behind a gap weighs what fades in all of it",
        "ewa_optax/series/_gaps.py",
        "since if plan.skip else passed",
        "since",
        ("tests/series/test_missing_and_times.py::test_the_definition",),
    ),
    Mutation(
        "the clock of a lane runs before its first value",
        "ewa_optax/series/_gaps.py",
        "gaps.waiting[:, None] & (time <= first[:, None])",
        "gaps.waiting[:, None] & (time < 0)",
        ("tests/series/test_missing_and_times.py::test_the_definition",),
    ),
    Mutation(
        "a past that has faded away has never been",
        "ewa_optax/series/_gaps.py",
        "jnp.where(begun, jnp.maximum(weight, jnp.finfo(weight.dtype).tiny), 0)",
        "jnp.where(begun, weight, 0)",
        ("tests/series/test_series.py::test_a_past_that_has_faded_away_has_been",),
    ),
    Mutation(
        "differences of short integers wrap round",
        "ewa_optax/series/_times.py",
        "times.astype(np.int64 if whole else np.float64)",
        "times",
        ("tests/series/test_series.py::test_differences_of_short_integers_do_not_wrap",),
    ),
    Mutation(
        "a state keeps a time in one float32",
        "ewa_optax/series/_times.py",
        "rest -= type(rest)(terms[-1])",
        "rest = type(rest)(0)",
        ("tests/series/test_missing_and_times.py::test_a_week_of_milliseconds_in_chunks",),
    ),
    Mutation(
        "a piece that runs backwards goes on at the wrong end",
        "ewa_optax/series/_times.py",
        "(times[-1], times[0]) if reverse",
        "(times[0], times[-1]) if reverse",
        ("tests/series/test_series.py::test_pieces_are_the_whole",),
    ),
    Mutation(
        "an average that goes on after a gap has no past to fade",
        "ewa_optax/series/_methods.py",
        "gaps | any_in_batch((weight > 0) & (weight != 1))",
        "gaps",
        ("tests/series/test_series.py::test_a_piece_after_a_gap",),
    ),
    Mutation(
        "the average of nothing is 0 in a state",
        "ewa_optax/series/_ewa.py",
        "jnp.where(weight > 0, average, jnp.nan)",
        "jnp.where(weight >= 0, average, jnp.nan)",
        ("tests/series/test_series.py::test_the_average_of_nothing_is_nan",),
    ),
    Mutation(
        "the ends of a divided series are joined forwards",
        "ewa_optax/series/_sharding.py",
        "jax.lax.scan(join, start, ends, reverse=plan.reverse)",
        "jax.lax.scan(join, start, ends)",
        ("tests/series/test_series.py::test_divided_among_devices",),
    ),
    Mutation(
        "a variance without a past counts one pair too many",
        "ewa_optax/series/_moments.py",
        "fading.faded(2 * (t - 1))",
        "fading.faded(2 * t)",
        ("tests/series/test_series.py::test_unbiased_and_undebiased",),
    ),
    Mutation(
        "one value has a variance without bias",
        "ewa_optax/series/_moments.py",
        "(jnp.cumsum(observed & (shares > 0), 1) > 1)",
        "(jnp.cumsum(observed & (shares > 0), 1) >= 1)",
        ("tests/series/test_series.py::test_variances_deviations_and_covariances_are_those_of_pandas",),
    ),
    Mutation(
        "a deviation is that of the biased variance",
        "ewa_optax/series/_moments.py",
        "Kind(bool(bias), True)",
        "Kind(True, True)",
        ("tests/series/test_series.py::test_variances_deviations_and_covariances_are_those_of_pandas",),
    ),
    Mutation(
        "a span is one step longer",
        "ewa_optax/series/_decays.py",
        "(span - 1) / (span + 1)",
        "span / (span + 2)",
        ("tests/series/test_series.py::test_conversions_are_those_of_pandas",),
    ),
    # Learning rates.
    Mutation(
        "epochs are counted in floats, which have no odd numbers far out",
        "ewa_optax/_schedules.py",
        "_whole(count, steps_per_epoch=steps_per_epoch) // steps_per_epoch",
        "jnp.asarray(count, float) // steps_per_epoch",
        ("tests/optimizers/test_worked_numbers.py::test_epochs_are_divided_as_integers",),
    ),
    Mutation(
        "a staircase drops an epoch late",
        "ewa_optax/_schedules.py",
        "power(factor, epoch // length)",
        "power(factor, (epoch - 1) // length)",
        ("tests/optimizers/test_worked_numbers.py::test_schedules",),
    ),
    Mutation(
        "a warm-up begins at a rate of 0",
        "ewa_optax/_schedules.py",
        "(_floats(before) + 1) / length",
        "_floats(before) / length",
        ("tests/optimizers/test_schedules.py::test_an_optimizer_takes_them",),
    ),
    Mutation(
        "the end of a warm-up is a quotient, which may be rounded",
        "ewa_optax/_schedules.py",
        "jnp.where(before >= steps - 1, 1, (_floats(before) + 1) / length)",
        "jnp.minimum((_floats(before) + 1) * (1 / length), 1)",
        ("tests/optimizers/test_schedules.py::test_both_ends_are_exact",),
    ),
    Mutation(
        "a cool-down is a step ahead",
        "ewa_optax/_schedules.py",
        "past = count // steps_per_epoch - start",
        "past = count // steps_per_epoch - start + 1",
        ("tests/optimizers/test_schedules.py::test_cool_downs_are_schedules_of_optax",),
    ),
    Mutation(
        "the schedule inside goes on while it cools down",
        "ewa_optax/_schedules.py",
        "where(past < 0, count, start * steps_per_epoch)",
        "where(past < 0, count, count)",
        ("tests/optimizers/test_schedules.py::test_every_step_of_three_runs_is_by_the_formula",),
    ),
    Mutation(
        "a cool-down by epochs asks for the rate of a step",
        "ewa_optax/_schedules.py",
        "where(past < 0, count, start * steps_per_epoch)",
        "where(past < 0, count, start)",
        ("tests/optimizers/test_schedules.py::test_a_schedule_inside_goes_on_with_the_same_count",),
    ),
    Mutation(
        "a cool-down is counted in floats",
        "ewa_optax/_schedules.py",
        "past = count // steps_per_epoch - start",
        "past = _floats(count // steps_per_epoch) - start",
        ("tests/optimizers/test_schedules.py::test_steps_are_counted_as_integers",),
    ),
    Mutation(
        "a shape may grow",
        "ewa_optax/_schedules.py",
        "abs(float(value) - (1 - at)) < 1e-3",
        "abs(float(value)) < 2",
        ("tests/optimizers/test_schedules.py::test_what_is_wrong_is_said_where_it_is_made",),
    ),
    Mutation(
        "cautious decay looks at a product, which may underflow",
        "ewa_optax/pieces/_weight_decay.py",
        "(jnp.sign(u) * jnp.sign(p).conj()).real > 0",
        "(u * p.conj()).real > 0",
        ("tests/pieces/test_weight_decay.py::test_cautious_decay_is_by_the_formula",),
    ),
    Mutation(
        "cautious decay of what the step grows",
        "ewa_optax/pieces/_weight_decay.py",
        "(jnp.sign(u) * jnp.sign(p).conj()).real > 0",
        "(jnp.sign(u) * jnp.sign(p).conj()).real < 0",
        ("tests/pieces/test_weight_decay.py::test_cautious_decay_is_by_the_formula",),
    ),
    Mutation(
        "cautious decay where the step is 0",
        "ewa_optax/pieces/_weight_decay.py",
        "(jnp.sign(u) * jnp.sign(p).conj()).real > 0",
        "(jnp.sign(u) * jnp.sign(p).conj()).real >= 0",
        ("tests/pieces/test_weight_decay.py::test_cautious_decay_is_by_the_formula",),
    ),
    Mutation(
        "cautious decay of complex weights without their conjugates",
        "ewa_optax/pieces/_weight_decay.py",
        "jnp.sign(p).conj()",
        "jnp.sign(p)",
        ("tests/pieces/test_weight_decay.py::test_cautious_decay_of_complex_weights_of_none_and_of_16_bits",),
    ),
    Mutation(
        "independent decay grows weights",
        "ewa_optax/pieces/_weight_decay.py",
        "return u - jnp.asarray(rate, p.dtype) * p",
        "return u + jnp.asarray(rate, p.dtype) * p",
        ("tests/pieces/test_weight_decay.py::test_independent_decay_is_a_loop_by_hand",),
    ),
    Mutation(
        "a pattern is looked for at the start only",
        "ewa_optax/pieces/_weight_decay.py",
        'check_pattern("path_matches: pattern", pattern).search',
        'check_pattern("path_matches: pattern", pattern).match',
        ("tests/pieces/test_weight_decay.py::test_masks_of_every_library",),
    ),
    Mutation(
        "paths go into the boxes of flax",
        "ewa_optax/pieces/_weight_decay.py",
        "shapes_of(params), is_leaf=is_box)",
        "shapes_of(params))",
        ("tests/pieces/test_weight_decay.py::test_masks_of_every_library",),
    ),
    Mutation(
        "a mask by axes leaves one more out",
        "ewa_optax/pieces/_weight_decay.py",
        "np.ndim(leaf) >= axes",
        "np.ndim(leaf) > axes",
        ("tests/pieces/test_weight_decay.py::test_masks_of_every_library",),
    ),
    Mutation(
        "a pattern that is in no path is taken",
        "ewa_optax/pieces/_weight_decay.py",
        "if names and not any(map(found, names))",
        "if not names and not any(map(found, names))",
        ("tests/pieces/test_weight_decay.py::test_what_is_wrong_with_a_mask",),
    ),
    Mutation(
        "a schedule is asked for the step after",
        "ewa_optax/pieces/_learning_rate.py",
        "(state.factor * -rate_at(state.step))",
        "(state.factor * -rate_at(increment(state.step)))",
        (CONTRACT + "test_a_schedule_gives_the_rate_of_each_step",),
    ),
    Mutation(
        "the last factor of a learning rate replaces those before it",
        "ewa_optax/pieces/_learning_rate.py",
        "lambda f: (f * factor).astype(f.dtype)",
        "lambda f: (f * 0 + factor).astype(f.dtype)",
        ("tests/pieces/test_learning_rate.py::test_a_rescaled_schedule_goes_on_from_where_it_is",),
    ),
    # Accumulation.
    Mutation(
        "the last micro-batch counts by its number, not by its weight",
        "ewa_optax/_wrappers/accumulate.py",
        "newest / divisor)",
        "1 / count)",
        ("tests/wrappers/test_accumulate.py::test_weights_skipped_and_empty_micro_batches",),
    ),
    Mutation(
        "a gradient that is not finite goes into the mean",
        "ewa_optax/_wrappers/accumulate.py",
        "| _all_finite(updates))",
        "| jnp.bool_(True))",
        ("tests/wrappers/test_accumulate.py::test_weights_skipped_and_empty_micro_batches",),
    ),
    Mutation(
        "a micro-batch of no weight is looked at",
        "ewa_optax/_wrappers/accumulate.py",
        "((newest == 0) | _all_finite(updates))",
        "_all_finite(updates)",
        ("tests/wrappers/test_accumulate.py::test_weights_skipped_and_empty_micro_batches",),
    ),
    Mutation(
        "a step is made of micro-batches without any weight",
        "ewa_optax/_wrappers/accumulate.py",
        " & (total > 0)",
        "",
        ("tests/wrappers/test_accumulate.py::test_weights_skipped_and_empty_micro_batches",),
    ),
    Mutation(
        "micro-batches that are left out are not counted",
        "ewa_optax/_wrappers/accumulate.py",
        "increment(state.skipped))",
        "state.skipped)",
        ("tests/wrappers/test_accumulate.py::test_weights_skipped_and_empty_micro_batches",),
    ),
    Mutation(
        "a schedule of micro-batches is asked for the step after",
        "ewa_optax/_wrappers/accumulate.py",
        "_every_at(every, state.step)",
        "_every_at(every, increment(state.step))",
        ("tests/wrappers/test_accumulate.py::test_equals_multisteps",),
    ),
    Mutation(
        "differences of the largest gradients are infinite",
        "ewa_optax/_wrappers/accumulate.py",
        "clip(value, largest(value.dtype) / 4)",
        "value",
        ("tests/wrappers/test_accumulate.py::test_no_finite_gradient_makes_nan",),
    ),
    Mutation(
        "all means are rounded by one chance",
        "ewa_optax/_wrappers/accumulate.py",
        "number=(state.step, state.mini_step)",
        "number=(state.mini_step, state.mini_step)",
        ("tests/wrappers/test_accumulate.py::test_rounding_is_without_bias_and_another_one_each_time",),
    ),
    Mutation(
        "the optimizer gets the mean in the dtype of the gradients",
        "ewa_optax/_wrappers/accumulate.py",
        "    return codec.decode(jnp.shape(u), *arrays)",
        "    return codec.decode(jnp.shape(u), *arrays).astype(u.dtype)",
        (
            "tests/wrappers/test_accumulate.py::test_the_mean_reaches_the_optimizer_in_float32_and_updates_leave_as_gradients_came",
        ),
    ),
    # Watched norms, and spikes.
    *(
        Mutation(what, f"ewa_optax/_wrappers/{file}.py", old, new, (f"tests/wrappers/test_{test}",))
        for what, file, old, new, test in (
            (
                "a sum that is not finite is taken as it is",
                "norms",
                "jnp.isfinite(of_parts) & (of_parts >= least)",
                "of_parts >= least",
                "watch.py::test_no_norm_of_finite_numbers_overflows",
            ),
            (
                "a sum of squares that are too small is taken as it is",
                "norms",
                "jnp.isfinite(of_parts) & (of_parts >= least)",
                "jnp.isfinite(of_parts)",
                "watch.py::test_no_norm_of_finite_numbers_overflows",
            ),
            (
                "a group of tiny numbers is as right as the whole is",
                "norms",
                "_are_right(sums, sizes, part) for part in parts)",
                "_are_right(sums, sizes, part) for part in parts[:1])",
                "watch.py::test_groups_of_all_sizes_beside_each_other",
            ),
            (
                "what an average is rounded by is forgotten",
                "watch",
                "jnp.stack([total, (start - (total - moved)) + (step - moved)])",
                "jnp.stack([total, 0 * total])",
                "watch.py::test_norms_are_averaged_as_the_formula_says",
            ),
            (
                "updates are made twice, for their norm and for the step",
                "watch",
                "jnp.where(norms < 0, p, u), default",
                "u, default",
                "watch.py::test_what_it_costs",
            ),
            (
                "fit stops at a cost whose step was skipped",
                "spikes",
                "map(jnp.greater, *reversed(counts)), jnp.bool_(False))",
                "[], jnp.bool_(False))",
                "spikes.py::test_fit_goes_on_where_the_step_of_a_cost_that_is_not_finite_was_skipped",
            ),
            (
                "an infinite gradient poisons the averages",
                "watch",
                "jnp.where(finite & moves, _averaged",
                "jnp.where(moves, _averaged",
                "watch.py::test_what_is_not_finite_is_left_out_and_counted",
            ),
            (
                "steps that move nothing are averaged",
                "watch",
                'whole[KINDS.index("update")] > 0',
                'whole[KINDS.index("update")] >= 0',
                "watch.py::test_steps_of_micro_batches_that_move_nothing_are_not_counted",
            ),
            (
                "the ratio is of updates to gradients",
                "watch",
                "update / jnp.where(parameters > 0, parameters, 1)",
                "update / jnp.where(parameters > 0, gradient, 1)",
                "watch.py::test_norms_are_averaged_as_the_formula_says",
            ),
            (
                "an update that overwrites the gradients copies them for the norms",
                "watch",
                "of_updates.sum() + of_params.sum()",
                "of_params.sum()",
                "watch.py::test_what_it_costs",
            ),
            (
                "a step that overwrites parameters of 16 bits copies them to compare them",
                "watch",
                "u - jnp.where(unmoved < 0, 1, 0).astype(u.dtype)",
                "u",
                "watch.py::test_in_16_bits_it_costs_more",
            ),
            (
                "one spike raises the limit of norms for long",
                "spikes",
                "jnp.minimum(log, limit), decay",
                "log, decay",
                "spikes.py::test_norms_are_clipped_as_the_formula_says",
            ),
            (
                "the variance forgets how far the newest norm is",
                "past",
                "older * (past.variance + newest *",
                "older * (past.variance + 0 * newest *",
                "spikes.py::test_norms_are_clipped_as_the_formula_says",
            ),
            (
                "equal norms make any larger one a spike",
                "past",
                "jnp.maximum(past.variance, LEAST_DEVIATION**2)",
                "past.variance",
                "spikes.py::test_one_spike_does_not_raise_the_limit_for_long_and_a_lasting_rise_passes",
            ),
            (
                "skipping locks up",
                "spikes",
                "(~spike | (state.in_a_row >= most))",
                "~spike",
                "spikes.py::test_a_burst_does_not_lock_it_and_what_stays_large_passes",
            ),
            (
                "after enough spikes what is not finite is let through",
                "spikes",
                "takes = finite & (",
                "takes = (",
                "spikes.py::test_steps_are_skipped_as_the_rule_says",
            ),
            (
                "what is not finite is among the spikes in a row",
                "spikes",
                "jnp.where(finite, increment(state.in_a_row), state.in_a_row)",
                "increment(state.in_a_row)",
                "spikes.py::test_a_burst_does_not_lock_it_and_what_stays_large_passes",
            ),
            (
                "a skipped step moves the average of norms",
                "spikes",
                "after(past, logs[name], decay, takes)",
                "after(past, logs[name], decay, finite)",
                "spikes.py::test_steps_are_skipped_as_the_rule_says",
            ),
        )
    ),
    # Averages and rounding of parameters.
    Mutation(
        "the average of parameters takes them a step early",
        "ewa_optax/pieces/_parameter_average.py",
        "(step > start) & ((step - start) % every == 0)",
        "(step >= start) & ((step - start) % every == 0)",
        ("tests/pieces/test_parameter_average.py::test_every_so_many_steps_from_a_start",),
    ),
    Mutation(
        "the average is of parameters before the update",
        "ewa_optax/pieces/_parameter_average.py",
        "jnp.asarray(p + u, jnp.result_type(p))",
        "jnp.asarray(p, jnp.result_type(p))",
        ("tests/pieces/test_parameter_average.py::test_it_sees_parameters_after_the_update_and_changes_nothing",),
    ),
    Mutation(
        "what rounding loses of the weights of a schedule is lost",
        "ewa_optax/pieces/_parameter_average.py",
        "jnp.stack([fresh, change - (fresh - total)])",
        "jnp.stack([fresh, 0 * change])",
        ("tests/pieces/test_parameter_average.py::test_weights_of_a_schedule",),
    ),
    Mutation(
        "a step that moves nothing counts as one of those averaged",
        "ewa_optax/pieces/_parameter_average.py",
        "moves = _moves(updates)",
        "moves = jnp.bool_(True)",
        ("tests/wrappers/test_accumulate.py::test_averages_of_parameters_count_real_steps_only",),
    ),
    Mutation(
        "parameters are rounded by the same chance at every step",
        "ewa_optax/pieces/_parameter_rounding.py",
        "random_bits(fold(key, step), p.shape)",
        "random_bits(fold(key, 0), p.shape)",
        ("tests/pieces/test_parameter_rounding.py::test_seeds_steps_and_leaves_differ",),
    ),
    # Stacks of leaves.
    Mutation(
        "all leaves of a stack are rounded by the same chance",
        "ewa_optax/_trees.py",
        "tuple(before + name + after for name in key.names)",
        "tuple(before + after for name in key.names)",
        ("tests/test_stacks.py::test_no_two_leaves_of_a_stack_are_rounded_by_the_same_chance",),
    ),
    Mutation(
        "the mask of a stack is that of its first leaf",
        "ewa_optax/_trees.py",
        "x[0] if len({*x}) == 1 else np.array(x)",
        "x[0] if len({*x}) <= 2 else np.array(x)",
        ("tests/test_stacks.py::test_masks_within_a_stack",),
    ),
    Mutation(
        "a stack has 65 leaves",
        "ewa_optax/_stacks.py",
        "len(stacks[-1]) == MOST",
        "len(stacks[-1]) > MOST",
        ("tests/test_stacks.py::test_at_most_64_leaves_a_stack_in_the_order_of_the_tree",),
    ),
    # Landscapes.
    Mutation(
        "far away the plateau loses its slope",
        "ewa_optax/landscapes/_surfaces.py",
        "jnp.where(z < 1, jnp.tanh(z / 2)",
        "jnp.where(z < 99, jnp.tanh(z / 2)",
        ("tests/landscapes/test_landscapes.py::test_the_plateau_keeps_its_digits_near_and_far",),
    ),
    Mutation(
        "a path tells the learning rates of the steps after",
        "ewa_optax/landscapes/_path.py",
        "lambda rates: rates[:-1]",
        "lambda rates: rates[1:]",
        ("tests/landscapes/test_landscapes.py::test_the_learning_rates_of_a_path_are_those_of_the_schedule",),
    ),
    Mutation(
        "Lanczos makes its vectors orthogonal once, not twice",
        "ewa_optax/landscapes/_lanczos.py",
        "jax.lax.fori_loop(0, 2, lambda _, x: x - (basis @ x) @ basis, x)",
        "jax.lax.fori_loop(0, 1, lambda _, x: x - (basis @ x) @ basis, x)",
        ("tests/landscapes/test_landscapes.py::test_lanczos_goes_on_where_all_eigenvalues_are_equal",),
    ),
    Mutation(
        "an eigenvalue within its error has a sign",
        "ewa_optax/landscapes/_curvature.py",
        "jnp.maximum(tolerance * jnp.max(jnp.abs(found)), errors)",
        "jnp.maximum(tolerance * jnp.max(jnp.abs(found)), 0 * errors)",
        ("tests/landscapes/test_landscapes.py::test_what_is_not_sure_to_be_positive_has_no_sign",),
    ),
    # What is taken over from another optimizer.
    Mutation(
        "the bias of what is taken over is corrected for one step too many",
        "ewa_optax/_states/forms.py",
        "weight_sum(beta, jnp.maximum(count, 1))",
        "weight_sum(beta, count + 1)",
        ("tests/states/test_carry_over.py::test_goes_on_from_optax_and_back[adamw]",),
    ),
    Mutation(
        "a sum is taken over as an average",
        "ewa_optax/_states/forms.py",
        'case "sum", "raw":\n            return Change(times=newest())',
        'case "sum", "raw":\n            return Change()',
        ("tests/states/test_carry_over.py::test_goes_on_from_optax_and_back[heavy_ball]",),
    ),
    Mutation(
        "the sizes of AdaMax are taken over as their squares",
        "ewa_optax/_states/forms.py",
        "return Change(squared=True)",
        "return Change()",
        ("tests/states/test_carry_over.py::test_goes_on_from_optax_and_back[adamax]",),
    ),
    Mutation(
        "deviations keep the mean in them",
        "ewa_optax/_states/forms.py",
        "jnp.maximum(widen(squares) - squared_magnitude(widen(mean)), 0)",
        "jnp.maximum(widen(squares) - 0 * squared_magnitude(widen(mean)), 0)",
        ("tests/states/test_carry_over.py::test_goes_on_from_optax_and_back[rmsprop_centered]",),
    ),
    Mutation(
        "rows and columns are always in one order",
        "ewa_optax/_states/factors.py",
        "return 1 if longest == len(shape) - 1 else -1",
        "return 1",
        ("tests/states/test_carry_over.py::test_goes_on_from_optax_and_back[adafactor]",),
    ),
    Mutation(
        "what is rounded again has the chance that rounded it before",
        "ewa_optax/_states/averages.py",
        'piece=f"{codec.piece} carried over to {codec.storage}"',
        'piece=f"{codec.piece} carried over"',
        ("tests/states/test_carry_over.py::test_what_is_rounded_is_in_the_mean_what_it_was",),
    ),
    Mutation(
        "averages stay where the given state is",
        "ewa_optax/_states/averages.py",
        "if sharding is None or isinstance(x, jax.core.Tracer):\n        return x",
        "if sharding is None or x is not None:\n        return x",
        ("tests/states/test_carry_over.py::test_averages_stay_where_the_parameters_are",),
    ),
    Mutation(
        "what found no place is dropped",
        "ewa_optax/_states/checks.py",
        "if len(theirs) > len(ours):",
        "if len(theirs) > len(ours) + 1:",
        ("tests/states/test_carry_over.py::test_what_does_not_fit_is_named",),
    ),
    Mutation(
        "the factor on learning rates is dropped",
        "ewa_optax/_states/checks.py",
        "if np.any(np.asarray(part.value) != 1):",
        "if np.any(np.asarray(part.value) != part.value):",
        ("tests/states/test_carry_over.py::test_rates_and_their_factor_are_taken_over",),
    ),
    Mutation(
        "a schedule goes on from the count of the averages",
        "ewa_optax/_states/carry_over.py",
        "schedule = next(iter([*schedules, *steps]), None)",
        "schedule = next(iter([*steps, *schedules]), None)",
        ("tests/states/test_carry_over.py::test_what_does_not_fit_is_named",),
    ),
    Mutation(
        "what a run gets on its way takes the place of what is there",
        "ewa_optax/_states/told.py",
        "if _has(told, kind) and not _has(state, kind))",
        "if _has(told, kind))",
        ("tests/states/test_carry_over.py::test_what_a_run_gets_on_its_way_begins_and_the_rest_goes_on",),
    ),
    Mutation(
        "the schedule of micro-batches begins anew",
        "ewa_optax/_states/told.py",
        "begun = begun._replace(step=last_step(state))",
        "begun = begun._replace(step=0 * last_step(state))",
        ("tests/states/test_carry_over.py::test_what_begins_begins_as_in_init",),
    ),
    Mutation(
        "groups drop what is of no parameter",
        "ewa_optax/_states/checks.py",
        "if name.removesuffix(ROWS).removesuffix(COLUMNS) not in names:",
        "if not name:",
        ("tests/states/test_carry_over.py::test_groups_take_their_leaves_and_no_others",),
    ),
    Mutation(
        "decays are read in float32",
        "ewa_optax/_states/decays.py",
        "jax.enable_x64(True)",
        "jax.enable_x64(False)",
        ("tests/states/test_carry_over.py::test_goes_on_from_optax_and_back[adamw]",),
    ),
    # Groups of parameters.
    Mutation(
        "the last rule that takes a leaf has it",
        "ewa_optax/_wrappers/groups.py",
        "in rules.items() if takes(where, names[i]",
        "in reversed(rules.items()) if takes(where, names[i]",
        ("tests/wrappers/test_groups.py::test_the_first_rule_that_takes_a_leaf_has_it",),
    ),
    Mutation(
        "a rule must fit the beginning of a path",
        "ewa_optax/_trees.py",
        "re.search(where, path)",
        "re.match(where, path)",
        ("tests/wrappers/test_groups.py::test_the_first_rule_that_takes_a_leaf_has_it",),
    ),
    Mutation(
        "groups go by gradients",
        "ewa_optax/_wrappers/groups.py",
        "updates if params is None else params).update",
        "updates).update",
        ("tests/wrappers/test_groups.py::test_rules_see_shapes_and_dtypes_of_parameters_and_not_of_gradients",),
    ),
    Mutation(
        "what is frozen gets its gradient",
        "ewa_optax/_wrappers/groups.py",
        "optax.set_to_zero()",
        "optax.identity()",
        ("tests/wrappers/test_groups.py::test_stacks_are_those_of_the_labels",),
    ),
    Mutation(
        "a path goes on into the boxes of flax",
        "ewa_optax/_wrappers/groups.py",
        "shapes_of(params), is_leaf=is_box)",
        "shapes_of(params))",
        ("tests/wrappers/test_groups.py::test_the_program_is_that_of_a_partition_by_hand",),
    ),
    Mutation(
        "the labels of a callable model are called",
        "ewa_optax/_wrappers/groups.py",
        "optax.partition(optimizers, lambda _: labels)",
        "optax.partition(optimizers, labels)",
        ("tests/wrappers/test_groups.py::test_the_program_is_that_of_a_partition_by_hand[equinox]",),
    ),
    Mutation(
        "rules must take a leaf of no tree",
        "ewa_optax/_wrappers/groups.py",
        "for *_, group in leaves}] if leaves else []",
        "for *_, group in leaves}]",
        ("tests/wrappers/test_groups.py::test_the_tools_of_optax_see_what_is_like_the_parameters",),
    ),
    Mutation(
        "groups within accumulate are stacked together",
        "ewa_optax/_stacks.py",
        "made.labels = inner.labels",
        "pass",
        ("tests/wrappers/test_groups.py::test_fit_stacks_by_the_labels[accumulate]",),
    ),
    Mutation(
        "fit stacks leaves of several groups",
        "ewa_optax/_fit/stacked.py",
        "labels = optimizer.labels(params)",
        "labels = None",
        ("tests/wrappers/test_groups.py::test_fit_stacks_by_the_labels[alone]",),
    ),
    Mutation(
        "the beginning of a name is a group",
        "ewa_optax/pieces/_learning_rate.py",
        'name.startswith(f"{group}/")',
        "name.startswith(group)",
        ("tests/wrappers/test_groups.py::test_rates_by_the_names_of_groups",),
    ),
    Mutation(
        "of two rates of one name the first is lost",
        "ewa_optax/pieces/_learning_rate.py",
        "if several[name] > 1:",
        "if several[name] > 2:",
        ("tests/wrappers/test_groups.py::test_rates_by_the_names_of_groups",),
    ),
    Mutation(
        "all groups are rescaled",
        "ewa_optax/pieces/_learning_rate.py",
        "if group is None or name == group",
        "if True or name == group",
        ("tests/wrappers/test_groups.py::test_a_factor_of_zero_freezes_for_good",),
    ),
    Mutation(
        "rates that were not recorded were 0",
        "ewa_optax/_fit/result.py",
        "np.full(len(history.costs), np.nan, x.dtype)",
        "np.full(len(history.costs), 0, x.dtype)",
        ("tests/wrappers/test_groups.py::test_a_record_without_rates_goes_on_with_nothing_for_the_past",),
    ),
    Mutation(
        "several rates are lost in a checkpoint",
        "ewa_optax/_fit/result.py",
        "for name, rate in rates.items()}}",
        "for name, rate in []}}",
        ("tests/wrappers/test_groups.py::test_fit_records_and_shows_all_rates",),
    ),
)


def chosen(words: Sequence[str]) -> list[int]:
    """The numbers, from 1, of the mutations of those numbers, and of those with one of the words; without any, of all.

    A word may be in what is said of a mutation, or in the name of its file.
    """
    found = []
    for number, mutation in enumerate(MUTATIONS, 1):
        said = f"{mutation.what} {mutation.file}".lower()
        if not words or any(word == str(number) if word.isdigit() else word.lower() in said for word in words):
            found.append(number)
    return found


def misfit(mutation: Mutation) -> str | None:
    """Why it can't be made, in words; None if it can."""
    path = ROOT / mutation.file
    if not path.is_file():
        return f"there is no file {mutation.file}"
    times = path.read_text().count(mutation.old)
    missing = [name for name in (x.partition("::")[0] for x in mutation.look) if not (ROOT / name).is_file()]
    if missing:
        return f"there is no file {missing[0]} to look"
    return None if times == 1 else f"{mutation.file} has {times} times, not once: {mutation.old!r}"


@contextlib.contextmanager
def mutated(copy: Path, mutation: Mutation, number: int) -> Iterator[None]:
    """A copy of the checkout is another one for a while."""
    path = copy / mutation.file
    kept, times = path.read_bytes(), path.stat()
    path.write_bytes(kept.replace(mutation.old.encode(), mutation.new.encode()))
    os.utime(path, (number, number))  # A time of its own, or Python may take the bytecode of another one for its.
    try:
        yield
    finally:
        path.write_bytes(kept)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def failures(copy: Path, arguments: Sequence[str]) -> list[str]:
    """The tests that fail in a copy of the checkout; RuntimeError where pytest runs none."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *arguments]
    folders = os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        command, cwd=copy, env={**os.environ, "PYTHONPATH": folders}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        try:
            out, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return []
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+\.py.*?)(?: - .*)?$", out, re.MULTILINE)
    if not failed and process.returncode:
        raise RuntimeError(f"pytest {' '.join(arguments)} ran no test:\n{out[-2000:]}")
    return failed


def noticing(copy: Path, mutation: Mutation, number: int, all_tests: bool, suite: bool) -> list[str]:
    """The tests that notice it: the first one, or all of those that should."""
    with mutated(copy, mutation, number):
        found = failures(copy, [*([] if all_tests else ["-x"]), "-n0", *mutation.look])
        return found if found or not suite else failures(copy, ["-x"])


def run(numbers: Sequence[int], options: argparse.Namespace) -> int:
    """Makes those mutations one after the other, and tells of each; how many were not noticed."""
    found = []
    with tempfile.TemporaryDirectory(prefix="mutations") as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for number in numbers:
            mutation, began = MUTATIONS[number - 1], time.perf_counter()
            print(f"{number:>3}  {mutation.what:<75}", end="  ", flush=True)
            by = noticing(copy, mutation, number, options.all_tests, not options.looks_only)
            seconds = time.perf_counter() - began
            count = f"{len(by)} tests, first " if options.all_tests and by else ""
            print(f"{seconds:>5.0f} s  {count}{by[0] if by else 'NOT NOTICED'}", flush=True)
            found.append({"number": number, "what": mutation.what, "seconds": round(seconds, 1), "noticed_by": by})
            if options.json:  # After each, so that what ends early is not lost.
                options.json.write_text(json.dumps(found, indent=2) + "\n")
        told = list(dict.fromkeys(name for row in found for name in row["noticed_by"][:1]))
        always = failures(copy, ["-n0", *told]) if told else []
    for name in always:
        print(f"fails without any mutation, so it notices none: {name}")
    missed = [row["number"] for row in found if not row["noticed_by"] or row["noticed_by"][0] in always]
    print(f"{len(found)} mutations, {sum(row['seconds'] for row in found):.0f} s; not noticed: {missed or 'none'}")
    return len(missed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 1 if a mutation was not noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=(), metavar="N", help="these numbers, or those with these words")
    parser.add_argument("--list", action="store_true", help="only list them")
    parser.add_argument("--all-tests", action="store_true", help="count how many of the tests that should notice do")
    parser.add_argument("--looks-only", action="store_true", help="leave out the whole suite if none of those notices")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    options = parser.parse_args(arguments)
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"argument --json: there is no folder {str(options.json.parent)!r}; make it first")
    numbers = chosen(options.only)
    if not numbers:
        parser.error(f"argument --only: there is no mutation of {' '.join(options.only)}; --list shows all")
    reasons = {number: misfit(MUTATIONS[number - 1]) for number in numbers}
    if any(reasons.values()):
        lines = (f"mutation {number}: {reason}" for number, reason in reasons.items() if reason)
        parser.exit(2, "\n".join([*lines, "bring the table of tests/mutations.py up to date\n"]))
    if options.list:
        print("\n".join(f"{n:>3}  {MUTATIONS[n - 1].file:<35}  {MUTATIONS[n - 1].what}" for n in numbers))
        return 0
    try:
        return int(run(numbers, options) > 0)
    except RuntimeError as error:
        parser.exit(2, f"\n{error}\n")


if __name__ == "__main__":
    sys.exit(main())
