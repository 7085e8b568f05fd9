"""Steps of Adam that take turns: in JAX, in torch, and the limit of the machine."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import fused_loop
from benchmarks.measuring import Variant
from benchmarks.peers import Peers
from benchmarks.programs import compiled

RATE = 1e-3
LOOP, COPY = "a loop in C", "a copy of as many bytes"


def of_jax(
    name: str,
    optimizer: optax.GradientTransformation,
    params: Any,
    loss: Callable[[Any], jax.Array] | None = None,
) -> Variant:
    """A compiled step, parameters and state donated: of given gradients, or with those of a loss."""
    carry = jax.tree.map(lambda x: jnp.array(np.asarray(x)), params), start(optimizer, params)

    def update(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    if loss:
        gradient, given = jax.grad(loss), ()
        program, figures = compiled(lambda p, state: update(p, state, gradient(p)), *carry, donate=(0, 1))
    else:
        given = (params,)  # As gradients they do, and are not donated.
        program, figures = compiled(update, *carry, *given, donate=(0, 1))

    def run(i):
        nonlocal carry
        carry = jax.block_until_ready(program(*carry, *given))

    return Variant(name, run, figures=figures)


def start(optimizer: optax.GradientTransformation, params: Any) -> Any:
    """The state before the first step, by one program: else each shape and operation compiles one of its own."""
    # XLA would spend seconds on the computing of constants.
    return jax.jit(optimizer.init, compiler_options={"xla_disable_hlo_passes": "constant_folding"})(params)


def bytes_to_move(optimizer: optax.GradientTransformation, params: Any) -> int:
    """Of a step on given gradients that reads all, and writes all but these, once."""
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((params, jax.eval_shape(optimizer.init, params))))
    return 2 * held + sum(x.nbytes for x in jax.tree.leaves(params))


def copy(size: int) -> Variant:
    """Half of these bytes read and half of them written, in place."""
    block = jnp.ones(size // 8, jnp.float32)
    negate = jax.jit(jnp.negative, donate_argnums=0).lower(block).compile()

    def run(i):
        nonlocal block
        block = jax.block_until_ready(negate(block))

    return Variant(COPY, run)


def loop_in_c(numbers: int, peers: Peers) -> list[Variant]:
    """Adam on a float32 vector, fused by hand."""
    adam = fused_loop.compiled()
    if adam is None:
        peers.lacks("a C compiler with OpenMP")
        return []
    normal = np.random.default_rng(0).standard_normal
    p, g = normal(numbers, np.float32), normal(numbers, np.float32)
    m, v, t = np.zeros_like(p), np.zeros_like(p), 0

    def run(i):
        nonlocal t
        t += 1
        adam(p, m, v, g, t, RATE)

    return [Variant(LOOP, run)]


def of_torch(params: Any, peers: Peers, device: str, with_loss: bool = False) -> list[Variant]:
    """`torch.optim.Adam`, fused and not; and, unless it is on the CPU, those with averages in 8 bits."""
    torch = peers("torch")
    if torch is None:
        return []
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        peers.lacks("torch for this GPU")
        return []
    leaves = jax.tree.leaves(params)
    dtype = getattr(torch, leaves[0].dtype.name)
    makers = {
        "torch, fused": lambda tensors: torch.optim.Adam(tensors, lr=RATE, fused=True),
        "torch, foreach": lambda tensors: torch.optim.Adam(tensors, lr=RATE, foreach=True),
    }
    if device != "cpu":
        makers |= in_eight_bits(peers)

    def variant(name, make):
        tensors = [torch.tensor(np.asarray(x, np.float32)).to(device, dtype).requires_grad_() for x in leaves]
        for tensor in tensors:
            tensor.grad = tensor.detach().clone()
        optimizer = make(tensors)

        def run(i):
            if with_loss:
                optimizer.zero_grad()
                torch.stack([0.5 * (p - 0.1).square().sum() for p in tensors]).sum().backward()
            optimizer.step()
            if on_gpu:
                torch.cuda.synchronize()

        return Variant(name, run)

    return [variant(name, make) for name, make in makers.items()]


def in_eight_bits(peers: Peers) -> dict[str, Callable[[list], Any]]:
    """Adam of torchao and of bitsandbytes."""
    found = {}
    if torchao := peers("torchao.optim"):
        found["torchao, 8bit"] = lambda tensors: torchao.Adam8bit(tensors, lr=RATE)
    if bitsandbytes := peers("bitsandbytes"):
        found["bitsandbytes, 8bit"] = lambda tensors: bitsandbytes.optim.Adam8bit(tensors, lr=RATE)
    return found
