"""`fit`: epochs of mini-batches with progress, history, validation, callbacks and checkpoints."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from ewa_optax._checks import (
    check_callbacks,
    check_function,
    check_functions,
    check_integer,
    check_key,
    check_trainable,
)
from ewa_optax._fit.arguments import (
    check_aux,
    check_epochs,
    check_numbers,
    check_together,
    initial_state,
)
from ewa_optax._fit.checkpoint import Checkpoints, settings_of
from ewa_optax._fit.loop import stretches
from ewa_optax._fit.progress import FitProgress
from ewa_optax._fit.result import Fitted, empty, with_epoch
from ewa_optax._fit.stacked import stacked_form_for
from ewa_optax.minibatch._engines import engine_for
from ewa_optax.minibatch._evaluation import validator
from ewa_optax.minibatch._iterables import source_of


def fit(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    params: Any,
    data: Any,
    *,
    batch_size: int | None = None,
    epochs: int,
    key: jax.Array,
    opt_state: Any = None,
    has_aux: bool = False,
    has_key: bool = False,
    remainder: str = "keep",
    order: str | None = None,
    shards: int = 1,
    loop: str = "auto",
    validation: Any = None,
    validation_loss: Callable[..., Any] | None = None,
    patience: int | None = None,
    callbacks: Sequence[Callable[[Fitted], Fitted | None]] = (),
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> Fitted:
    r"""Trains on mini-batches, and returns what was trained with a record of it.

    Each step is $\theta \leftarrow \theta + u(\nabla J^{\{t\}}(\theta))$ on the next mini-batch, $u$ the optimizer; an
    epoch is one pass over the shuffled data. Arrays are put on the device once, and steps run there in a compiled
    loop; there are two copies of parameters and optimizer state, the one that steps change and the last that was
    looked at (and one of the best parameters, with validation data). Ctrl-C ends the training cleanly with what was
    trained. When a cost, a parameter or the state stops being finite, so does `fit`: it warns, and returns the last
    state that was finite; it goes on behind a cost whose step `skip_spikes` or `accumulate` has left out. With a
    `checkpoint` folder, the same call goes on where the last one ended or was killed, to the bit on the same machine.
    Parameters, state, position, key and history are then those of the folder; loss, learning rate, decays and callbacks
    are those of the call. A callback during which a run was interrupted is called again.

    Args:
        loss: `(params, batch) -> cost`, a scalar. With `has_aux` it returns `(cost, aux)`; with `has_key` it is called
            with `key=`, another key in each step, for dropout; with `remainder="mask"` with `mask=`. Define it once:
            another function compiles anew.
        optimizer: any `optax.GradientTransformation`. Its numbers are data: one that differs in them only, such as in
            the learning rate, does not compile anew.
        params: a pytree of float or complex arrays. Where the data is sharded over a mesh and they are not, they are
            replicated. Many small ones are kept in stacks while steps run (see `stack_leaves`) if the optimizer is one
            of this library or `groups` of such; for others, say `stack_leaves(params)` here. In both cases `loss` sees
            the tree.
        data: a pytree of arrays, examples along the first axes; or, to be read as needed, one with memory-mapped arrays
            (`numpy.load(file, mmap_mode="r")`); or any iterable of batches (a list is a pytree, not one), which is
            begun anew for each epoch and shuffles by itself; or a function from the number of the epoch to such an
            iterable. One that has a method `set_epoch`, or whose sampler or data set has, as those of torch, is told
            the epoch. To resume, it has to give the same batches again. Of sharded data see `minibatch.epoch`.
        batch_size: $B$, from 1 to the number of examples $m$; see `minibatch.suggest_batch_size`. None for an iterable.
        epochs: how many passes over the data, 1 or more, those before a resume included.
        key: a `jax.random` key, which decides the orders and the keys of the steps.
        opt_state: where the optimizer stands; None is `optimizer.init(params)`.
        has_aux: whether `loss` returns `(cost, aux)`.
        has_key: whether `loss` takes a `key`.
        remainder: `"keep"`, `"drop"` or `"mask"`, for the last mini-batch; see `minibatch.epoch`.
        order: `"permutation"`, `"bijection"` or None; see `minibatch.order`.
        shards: 1 shuffles globally, $S$ within each of $S$ parts; see `minibatch.epoch`.
        loop: `"scan"`, `"python"` or `"auto"`; see `minibatch.epoch`.
        validation: data to compute the cost of after each epoch, of the kinds of `data`.
        validation_loss: what to compute on it, called as `(params, batch)`; None is `loss`. Needed with `has_key`.
        patience: stop when the validation cost has not been lower for so many epochs; None trains on.
        callbacks: called after each epoch with the `Fitted` so far. What one returns, if not None, is gone on with: for
            a lower rate `run._replace(opt_state=rescale_learning_rate(run.opt_state, 0.1))`; to end,
            `run._replace(stopped="enough")`.
        checkpoint: a folder for the checkpoints of this run (needs the `checkpoint` extra), the last two of which are
            kept. If there are any in it, the training goes on from the latest one. Those of another key, batch size,
            order, model, optimizer or data (told by shapes and the first 64 examples) are refused.
        checkpoint_every: how many steps from one to the next; None is one an epoch.
        progress: whether to show a bar (with the `progress` extra, on a terminal) or a line an epoch, on stderr.

    Returns:
        `Fitted`, by name: `params`, `opt_state`, `history` (NumPy arrays: costs, learning rates and more of each step,
        costs and seconds of each epoch), `epoch` and `step` (where it ended), `best_params` (of the lowest validation
        cost) and `stopped` (why it ended).

    Raises:
        ValueError: a cost that is no scalar; an iterable without batches or with a `batch_size`; an iterator, which can
            be run through only once, for several epochs; an iterable that, at a resume, gives other batches each time;
            `patience` without `validation`; checkpoints that are torn, or of another run (which are left as they are);
            what `minibatch.epoch` raises of data, `batch_size`, `remainder`, `order`, `shards` and `loop`.
        TypeError: a cost that is not real, or comes with an `aux` and no `has_aux` (or the other way round); an integer
            or a key that is none; a callback that returns something else.
        ImportError: `checkpoint` without orbax.

    Examples:
        >>> import jax, jax.numpy as jnp, ewa_optax
        >>> x = jax.random.normal(jax.random.key(0), (1000, 3))
        >>> data = {"x": x, "y": x @ jnp.array([1.0, -2.0, 0.5])}
        >>> def loss(w, batch):
        ...     return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)
        >>> run = ewa_optax.fit(
        ...     loss, ewa_optax.adam(0.03), jnp.zeros(3), data,
        ...     batch_size=50, epochs=20, key=jax.random.key(1), progress=False,
        ... )
        >>> print(run.params.round(2), run.stopped, run.history.costs.shape)
        [ 1.  -2.   0.5] finished (400,)

    Reference:
        Andrew Ng et al., "Improving Deep Neural Networks", week 2, "Mini-batch gradient descent".
    """
    check_key(key)
    epochs = check_integer("epochs", epochs, 1, remedy="one pass over the data is 1")
    every = None if checkpoint is None else checkpoint_every
    check_functions(loss, optimizer)
    check_callbacks(callbacks)
    check_numbers(checkpoint_every=checkpoint_every, patience=patience)
    check_together(patience=patience, validation=validation, validation_loss=validation_loss, has_key=has_key)
    check_epochs(data, epochs)
    check_epochs(validation, epochs)
    plan = dict(batch_size=batch_size, remainder=remainder, order=order, shards=shards)
    source = source_of(data, has_key=has_key, **plan)
    check_trainable(params)
    params = source.place(params)
    opt_state = source.place(initial_state(optimizer, params, opt_state))
    form, across = stacked_form_for(optimizer, params), not callbacks and validation is None and checkpoint is None
    carry = form.like or (params, opt_state)
    engine = engine_for(loss, optimizer, carry, source, key, loop, has_aux=has_aux, across=across)
    validate = None
    if validation is not None:
        check_function("validation_loss", validation_loss or loss, "def validation_loss(params, batch)")
        keywords = dict(has_aux=has_aux, masked=remainder == "mask") if validation_loss is None else {}
        validate = validator(validation_loss or loss, validation, batch_size, **keywords)

    check_aux(engine.aux)
    run = form.inside(Fitted(params, opt_state, empty(engine.aux), 0, 0, params if validate else None, None))
    settings = {} if checkpoint is None else settings_of(run, source, key)
    shown = FitProgress(progress, epochs)
    with shown, Checkpoints(checkpoint, every, settings, shown.line) as saved:

        def end_epoch(run: Fitted, seconds: float) -> Fitted:
            run = _over(run, validate, seconds)
            shown.epoch(run)
            for callback in callbacks:
                run = _called(callback, run, form, source)
            return _early(run, patience)

        run = _early(saved.restored(run), patience)
        if len(run.history.costs):
            source.check_repeats(run.epoch)
            shown.line(f"resumes after {run.epoch} epochs and {run.step} steps, from {saved.folder}")
        try:
            for now in stretches(run, engine, epochs, every, end_epoch):
                run = now
                shown.step(run, engine.steps)
                if run.step != engine.steps and not (run.step and engine.ended):  # Else the epoch is yet to be closed.
                    saved.save(run)
        except KeyboardInterrupt:
            run = run._replace(stopped="interrupted")
        run = run._replace(stopped=run.stopped or "finished")
        saved.finish(run)
        shown.end(run)
    return form.outside(run)


def _over(run, validate, seconds):
    """The run after an epoch."""
    cost = validate(run.params) if validate else None
    history, best = with_epoch(run.history, run.step, cost, seconds), run.best_params
    if cost is not None and cost < np.nanmin([np.inf, *run.history.validation_costs]):
        best = run.params
    return run._replace(history=history, best_params=best, epoch=run.epoch + 1, step=0)


def _early(run, patience):
    costs = np.append(run.history.validation_costs, np.inf)
    since_best = len(costs) - 2 - int(np.argmin(np.where(np.isnan(costs), np.inf, costs)))
    return run._replace(stopped="early") if patience and run.stopped is None and since_best >= patience else run


def _called(callback, run, form, source):
    changed = callback(form.outside(run))
    if changed is None:
        return run
    if not isinstance(changed, Fitted):
        raise TypeError(
            f"a callback must return None or a Fitted, got {type(changed).__name__}; change what it was given by "
            "run._replace(...) and return that."
        )
    params, opt_state = source.place((changed.params, changed.opt_state))
    return form.inside(changed._replace(params=params, opt_state=opt_state))
