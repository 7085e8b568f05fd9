"""Parameters and their state divided between two processes: the training of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

FLAGS = "--xla_force_host_platform_device_count={} --xla_llvm_disable_expensive_passes=true"


def train(folder, name):
    """Twenty steps of 8 bits on two devices of one or two processes, saved, restored, and ten more."""
    import jax.numpy as jnp
    import optax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    from orbax import checkpoint

    import ewa_optax

    mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    params = {"up": rng.standard_normal((64, 256)) / 8, "down": rng.standard_normal((256, 64)) / 16}
    params = {key: value.astype(np.float32) for key, value in params.items()}
    lie = {"up": NamedSharding(mesh, PartitionSpec(None, "fsdp")), "down": NamedSharding(mesh, PartitionSpec("fsdp"))}
    x = rng.standard_normal((128, 64)).astype(np.float32)
    optimizer = ewa_optax.accumulate(ewa_optax.adamw(1e-3, storage="8bit"), every=2, storage="8bit")
    params = jax.tree.map(lambda p, s: jax.make_array_from_callback(p.shape, s, lambda i: p[i]), params, lie)
    said = ewa_optax.state_shardings(optimizer, params)
    state = jax.jit(optimizer.init, out_shardings=said)(params)

    @jax.jit
    def step(params, state):
        def loss(p):
            return jnp.mean((jnp.tanh(x @ p["up"]) @ p["down"] - x) ** 2)

        cost, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, cost

    costs = []

    def run(params, state, steps):
        for _ in range(steps):
            params, state, cost = step(params, state)
            costs.append(float(cost))
        return params, state

    params, state = run(params, state, 20)
    empty = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), {"params": params, "state": state},
        {"params": lie, "state": said},
    )  # fmt: skip
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(Path(folder) / "run", {"params": params, "state": state})
        saver.wait_until_finished()
        back = saver.restore(Path(folder) / "run", empty)
    run(back["params"], back["state"], 10)
    if jax.process_index() == 0:
        np.save(Path(folder) / name, costs)


def started(folder, name, processes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = (
        "import sys, jax; port, count, number, tests, folder, name = sys.argv[1:]\n"
        "if count != '1': jax.distributed.initialize(f'localhost:{port}', int(count), int(number))\n"
        "sys.path.insert(0, tests); import test_processes; test_processes.train(folder, name)"
    )
    flags = {**os.environ, "XLA_FLAGS": FLAGS.format(2 // processes), "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, str(port), str(processes), str(i), str(Path(__file__).parent), folder, name],
            env=flags,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    for count, name in ((1, "one"), (2, "two")):
        (tmp_path / name).mkdir()
        processes = started(str(tmp_path / name), name, count)
        try:
            errors = [process.communicate(timeout=300)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * count, errors
    one, two = (np.load(tmp_path / name / f"{name}.npy") for name in ("one", "two"))
    assert one[-1] < 0.9 * one[0]
    np.testing.assert_allclose(two, one, rtol=1e-5)
