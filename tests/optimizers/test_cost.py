"""What the compiled programs cost, which is exact: operations, bytes and size, never seconds."""

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import IS_LATER
from runs import compiled_step

import ewa_optax
from ewa_optax import minibatch


def cost(optimizer, params):
    analysis = compiled_step(optimizer, params).cost_analysis()
    return {name: analysis.get(name, 0.0) for name in ("flops", "transcendentals", "bytes accessed")}


@pytest.mark.parametrize("leaves", [1, 8])
@pytest.mark.parametrize("size", [1, 10, 1000, 100_000])
def test_adam_costs_what_adam_of_optax_costs(leaves, size):
    params = [jnp.ones(size) for _ in range(leaves)]
    ours, theirs = cost(ewa_optax.adam(1e-3), params), cost(optax.adam(1e-3), params)
    assert ours["flops"] <= theirs["flops"] + 16
    assert ours["bytes accessed"] <= theirs["bytes accessed"] + 64
    assert ours["transcendentals"] <= theirs["transcendentals"]


PEERS = {
    "gradient_descent": (optax.sgd, {}),
    "heavy_ball": (optax.sgd, dict(momentum=0.9)),
    "nesterov": (optax.sgd, dict(momentum=0.9, nesterov=True)),
    "signum": (optax.signum, {}),
    "lion": (optax.lion, {}),
    "rmsprop": (optax.rmsprop, dict(eps_in_sqrt=False)),
    "adadelta": (optax.adadelta, {}),
    "rmsprop_momentum": (optax.rmsprop, dict(momentum=0.9, eps_in_sqrt=False)),
    "rmsprop_centered": (optax.rmsprop, dict(momentum=0.9, centered=True)),
    "adamax": (optax.adamax, {}),
    "amsgrad": (optax.amsgrad, dict(bias_correction_mu=False, bias_correction_nu=False)),
    "yogi": (optax.yogi, {}),
    "adam": (optax.adam, {}),
    "adamw": (optax.adamw, {}),
    "radam": (optax.radam, {}),
    "nadam": (optax.nadam, {}),
    "nadamw": (optax.nadamw, {}),
    "adabelief": (optax.adabelief, {}),
    "ademamix": (optax.contrib.ademamix, {}),
    "adan": (optax.adan, {}),
    "lars": (optax.lars, {}),
    "novograd": (optax.novograd, {}),
    "lamb": (optax.lamb, {}),
    "adafactor": (optax.adafactor, {}),
    "muon": (optax.contrib.muon, {}),
}
WITHOUT_A_PEER = {"momentum", "laprop", "normuon", "muon_hyperball", "soap"}
"""Of those optax has no optimizer."""
# A clip in the loops that read gradients keeps finite ones from overflowing; optax has none.
CLIPS = {"heavy_ball": 1, "nesterov": 2, "signum": 1, "lion": 2, "rmsprop": 1, "adadelta": 3, "rmsprop_momentum": 2,
         "rmsprop_centered": 3, "adamax": 2, "amsgrad": 2, "ademamix": 1}  # fmt: skip
# A sum as an average over 1 - b, so that 1 - b keeps its digits: v + (1 - b) (g - v), not b v + g.
SUMS = {"heavy_ball", "nesterov", "rmsprop_centered"}
# A norm looks for the largest number first, and scales by it, so that no square overflows: three operations.
NORMS = {"lars": 2, "adafactor": 2}
SCALED = 0.2 if IS_LATER else 0


@pytest.mark.parametrize("name", PEERS)
def test_a_member_costs_what_that_of_optax_costs(name):
    """Within 2 %: bytes all; operations all but for the clips, one of sums, and three of norms."""
    twin, keywords = PEERS[name]
    params = [jnp.ones((256, 512) if name == "muon" else 100_000)]
    ours, theirs = cost(getattr(ewa_optax, name)(0.1), params), cost(twin(0.1, **keywords), params)
    assert ours["bytes accessed"] <= (1.02 + SCALED * (name in NORMS)) * theirs["bytes accessed"]
    more = CLIPS.get(name, 0) + (name in SUMS) + 3 * NORMS.get(name, 0)
    assert ours["flops"] <= 1.02 * theirs["flops"] + 100_000 * more
    assert not more or ours["flops"] > 1.02 * theirs["flops"]  # No exception that is not needed.


def test_adafactor_of_matrices_costs_what_that_of_optax_costs():
    params = [jnp.ones((512, 512))]
    ours, theirs = cost(ewa_optax.adafactor(0.1), params), cost(optax.adafactor(0.1), params)
    assert ours["bytes accessed"] <= (1.02 + SCALED) * theirs["bytes accessed"]
    assert ours["flops"] <= 1.02 * theirs["flops"] + (2 + 3 * 2) * 512 * 512  # Two clips and two norms.


@pytest.mark.parametrize("leaves", [1, 8])
def test_composition_costs_nothing(leaves):
    params = [jnp.ones(1000) for _ in range(leaves)]
    rms = ewa_optax.scale_by_rms(optax.ema(0.999), numerator=optax.ema(0.9))
    ours, theirs = cost(rms, params), cost(optax.scale_by_adam(), params)
    assert ours["flops"] <= theirs["flops"] + 16
    assert ours["bytes accessed"] <= theirs["bytes accessed"] + 64


def test_the_cost_test_would_notice_one_more_operation_an_element():
    params = [jnp.ones(1000)]
    more = optax.chain(ewa_optax.adam(1e-3), optax.scale(1.5))
    assert cost(more, params)["flops"] > cost(optax.adam(1e-3), params)["flops"] + 16


@pytest.mark.parametrize("shapes", [[(100_000,)], [(512, 512)] * 4], ids=["vector", "matrices"])
def test_bfloat16_averages_save_8_bytes_a_parameter(shapes):
    """Copies of donated averages would take them back."""
    params = [jnp.ones(shape) for shape in shapes]
    full, ours = (compiled_step(ewa_optax.adam(1e-3, storage=storage), params) for storage in (None, "bfloat16"))
    saved = full.cost_analysis()["bytes accessed"] - ours.cost_analysis()["bytes accessed"]
    assert saved / sum(p.size for p in params) >= 7.5
    memory = ours.memory_analysis()
    assert memory.temp_size_in_bytes < 0.1 * sum(p.nbytes for p in params)


def test_donated_state_and_parameters_need_no_second_copy():
    params = [jnp.ones(100_000)]
    memory = compiled_step(ewa_optax.adam(1e-3), params).memory_analysis()
    assert memory.alias_size_in_bytes >= 3 * 400_000
    assert memory.temp_size_in_bytes < 400_000


def test_an_epoch_holds_no_copy_of_its_data():
    data = {"x": jnp.zeros((100_000, 20)), "y": jnp.zeros(100_000)}

    def step(carry, batch):
        return carry + batch["x"].sum() + batch["y"].sum(), None

    def epoch(data):
        return minibatch.epoch(step, jnp.float32(0), data, batch_size=96, key=jax.random.key(0))

    lowered = jax.jit(epoch).lower(data)
    assert len(lowered.as_text()) < 200_000
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 2_000_000  # A quarter of x.
