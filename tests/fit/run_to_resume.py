"""A training that saves checkpoints, as a program to kill: FOLDER or -, FILE for what it ends with, LOOP, DEVICES.

And another FILE, if it is to be trained once more without them.
"""

import os
import sys

folder, result, loop, devices, *whole = sys.argv[1:]
flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
os.environ["XLA_FLAGS"] = " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

import ewa_optax  # noqa: E402

x = np.random.default_rng(0).standard_normal((1000, 4)).astype(np.float32)
data = {"x": x, "y": np.tanh(x @ np.arange(4, dtype=np.float32))}
if int(devices) > 1:
    data = jax.device_put(data, NamedSharding(jax.make_mesh((int(devices),), ("data",)), PartitionSpec("data")))
params = {"w": jnp.ones((4, 8)) / 4, "v": jnp.ones(8) / 8}


def loss(params, batch, key):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    kept = jax.random.bernoulli(key, 0.9, hidden.shape)
    return jnp.mean(((hidden * kept) @ params["v"] - batch["y"]) ** 2)


def halved(run):
    print("trains", flush=True)
    if run.epoch % 20 == 0:
        return run._replace(opt_state=ewa_optax.rescale_learning_rate(run.opt_state, 0.5))
    return None


def validation_loss(params, batch):
    return loss(params, batch, jax.random.key(0))


def train(checkpoint, result):
    run = ewa_optax.fit(
        loss, optimizer, params, data, batch_size=24, epochs=40, key=jax.random.key(1), has_key=True,
        loop=loop, callbacks=[halved], validation=data, validation_loss=validation_loss,
        checkpoint=checkpoint, checkpoint_every=70, progress=False,
    )  # fmt: skip
    history = run.history._replace(seconds=0)
    kept = dict(params=run.params, opt_state=run.opt_state, best=run.best_params, history=history)
    np.savez(result, *jax.tree.leaves(kept))


optimizer = ewa_optax.adam(0.01)
train(None if folder == "-" else folder, result)
for another in whole:
    train(None, another)
