"""Batches that come from any iterable: who shuffles them, and whether a resumed run sees those of an unbroken one."""

import warnings

import grain
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import ewa_optax

KEY, SIZE, NUMBERS = random.key(0), 4, np.arange(40, dtype=np.float32)
OPTIMIZER = ewa_optax.gradient_descent(1e-3)


def loss(w, batch):
    return (w - batch.mean()) ** 2, batch  # The history keeps the batches of all steps.


def batches(x):
    return [np.asarray(part, np.float32) for part in np.split(x, len(x) // SIZE)]


def seen(data, epochs=4, **keywords):
    """The batches of each step, of a run that a folder may have been begun in."""
    run = ewa_optax.fit(loss, OPTIMIZER, 0.0, data, epochs=epochs, key=KEY, has_aux=True, progress=False, **keywords)
    return np.asarray(run.history.aux).reshape(-1, SIZE)


class PowerCutError(Exception):
    """As a kill ends a run: what is not in a checkpoint by now is lost."""


def cut_in_epoch(number):
    def callback(run):
        if run.epoch == number:
            raise PowerCutError

    return callback


def killed_and_resumed(make, folder, **keywords):
    """Killed after epoch 2; its last checkpoint is of the middle of epoch 1. `make` is what a new process does."""
    with pytest.raises(PowerCutError):
        seen(make(), checkpoint=folder, checkpoint_every=13, callbacks=[cut_in_epoch(2)], **keywords)
    return seen(make(), checkpoint=folder, checkpoint_every=13, **keywords)


class OfEpoch:
    """Shuffled by a seed of the epoch, in the three ways to tell it."""

    epoch = 0

    def __iter__(self):
        return iter(batches(np.random.default_rng([7, self.epoch]).permutation(NUMBERS)))

    def set_epoch(self, epoch):
        self.epoch = epoch


class Sampled:
    def __init__(self, name):
        self.order = OfEpoch()
        setattr(self, name, self.order)

    def __iter__(self):
        return iter(self.order)


def of_epoch(epoch):
    return batches(np.random.default_rng([7, epoch]).permutation(NUMBERS))


def generator_of_epoch(epoch):
    yield from of_epoch(epoch)


def grain_of_epoch(epoch):
    return grain.MapDataset.source(NUMBERS).seed(epoch).shuffle().batch(SIZE).to_iter_dataset()


def sampled(name):
    return lambda: Sampled(name)


def loader(distributed=False, workers=0):
    """Of torch; its `DistributedSampler` as on two machines."""

    def make():
        data = pytest.importorskip("torch.utils.data")
        samplers = dict(num_replicas=1, rank=0, seed=3)
        sampler = data.distributed.DistributedSampler(NUMBERS, **samplers) if distributed else None
        torch = pytest.importorskip("torch")
        shuffle = dict(sampler=sampler) if distributed else dict(shuffle=True)
        if workers:
            shuffle |= dict(multiprocessing_context="forkserver")  # JAX has threads, which a fork would cut off.
        return data.DataLoader(
            NUMBERS, batch_size=SIZE, generator=torch.Generator().manual_seed(3), num_workers=workers, **shuffle
        )

    return make


TOLD = {
    "a function": lambda: of_epoch,
    "a generator": lambda: generator_of_epoch,
    "set_epoch": OfEpoch,
    "a sampler": sampled("sampler"),
    "a sampler of batches": sampled("batch_sampler"),
    "a data set": sampled("dataset"),
    "grain": lambda: grain_of_epoch,
    "torch": loader(distributed=True),
    "torch with workers": loader(distributed=True, workers=2),
}


@pytest.mark.parametrize("make", TOLD.values(), ids=TOLD)
def test_a_killed_run_goes_on_with_the_batches_of_an_unbroken_one(make, tmp_path):
    whole = seen(make())
    np.testing.assert_array_equal(killed_and_resumed(make, tmp_path), whole)
    epochs = np.sort(whole.reshape(4, -1), axis=1)
    np.testing.assert_array_equal(epochs, np.tile(NUMBERS, (4, 1)))
    assert len({epoch.tobytes() for epoch in whole.reshape(4, -1)}) == 4


def with_a_generator():
    class Shuffled:
        rng = np.random.default_rng(0)

        def __iter__(self):
            return iter(batches(self.rng.permutation(NUMBERS)))

    return Shuffled()


@pytest.mark.parametrize("make", [with_a_generator, loader()], ids=["a generator of NumPy", "torch"])
def test_what_cannot_be_told_the_epoch_is_refused_at_a_resume(make, tmp_path):
    assert len(np.unique(seen(make()).reshape(4, -1), axis=0)) == 4
    with pytest.raises(ValueError, match=r"a resumed epoch 1 would not be the one that .*; pass a function"):
        killed_and_resumed(make, tmp_path)


class InOrder:
    def __iter__(self):
        return iter(batches(NUMBERS))


def grain_once():
    return grain.MapDataset.source(NUMBERS).seed(0).shuffle().batch(SIZE).to_iter_dataset()


@pytest.mark.parametrize("make", [InOrder, grain_once], ids=["in order", "grain"])
def test_one_order_for_all_epochs_is_told_once_and_resumes(make, tmp_path):
    with pytest.warns(UserWarning, match="same order in each epoch: epochs 0 and 1 begin") as told:
        whole = seen(make())
    assert len(told) == 1
    with pytest.warns(UserWarning, match="same order"):
        np.testing.assert_array_equal(killed_and_resumed(make, tmp_path), whole)


def test_an_epoch_of_one_batch_has_no_order():
    with warnings.catch_warnings(action="error"):
        seen(lambda epoch: [NUMBERS[:SIZE]], epochs=3)


def test_validation_data_may_be_a_function_too():
    run = ewa_optax.fit(
        loss, OPTIMIZER, 0.0, of_epoch, epochs=1, key=KEY, has_aux=True, progress=False, validation=of_epoch,
        validation_loss=lambda w, batch: jnp.mean(batch),
    )  # fmt: skip
    np.testing.assert_allclose(run.history.validation_costs, [NUMBERS.mean()])
