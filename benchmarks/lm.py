"""A small language model by several optimizers, each at the best of a few learning rates, from several seeds."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from rich.console import Console
from rich.progress import track

import ewa_optax
from benchmarks import directions, gpt, measuring
from benchmarks.peers import Peers
from ewa_optax import matrices, pieces

REFERENCE, STEP = "AdamW", "a step, its gradient with it"


class Way(NamedTuple):
    """An optimizer of a learning rate, and the rates to try, or the name of the way before whose best rate it takes."""

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    rates: tuple[float, ...] | str


class Sizes(NamedTuple):
    """What to train, how long, and after how many steps each its loss on held-out `judged` pieces is asked."""

    model: gpt.Sizes
    batch: int
    steps: int
    every: int
    judged: int
    ways: tuple[Way, ...]
    seeds: int
    turns: int
    directions: tuple[gpt.Sizes, int, int] | None
    """The model, the batch and the steps that directions of momentum are compared after."""


class Found(NamedTuple):
    """The last loss of each rate from the first seed, and, of the best, the losses by seed and step."""

    last: dict[float, float]
    rate: float
    losses: np.ndarray


class Training(NamedTuple):
    """`start(rate, seed)` is parameters and state; `advance(both, first, end, rate, seed, text)` trains them."""

    start: Callable[..., Any]
    advance: Callable[..., Any]


def adamw(rate: Any, **keywords: Any) -> optax.GradientTransformation:
    """With the decays and the weight decay that language models are trained with."""
    return ewa_optax.adamw(rate, b2=0.95, weight_decay=0.1, mask=matrices_decay, **keywords)


def lion(rate: Any) -> optax.GradientTransformation:
    """With a weight decay as much larger as its rate is smaller."""
    return ewa_optax.lion(rate, weight_decay=1.0, mask=matrices_decay)


def muon(rate: Any, **keywords: Any) -> optax.GradientTransformation:
    """Muon for the hidden layers, and the same AdamW for the rest."""
    return ewa_optax.muon_with_adamw(rate, mask=matrices_decay, **keywords)


def hidden(optimizer: optax.GradientTransformation, rest: Any) -> optax.GradientTransformation:
    """An optimizer for the hidden layers, and the same AdamW for the rest, at a rate of its own."""
    return ewa_optax.groups({"hidden": (matrices.is_hidden_matrix, optimizer), "rest": (..., adamw(rest))})


def normuon(rate: Any) -> optax.GradientTransformation:
    """NorMuon for the hidden layers."""
    return hidden(ewa_optax.normuon(rate), rate)


def hyperball(rate: Any) -> optax.GradientTransformation:
    """MuonH for the hidden layers, whose rate is the relative change of a step: a tenth of it suits the rest."""
    return hidden(ewa_optax.muon_hyperball(rate), lambda step: rate(step) / 10)


matrices_decay = pieces.ndim_at_least(2)
WAYS = (
    Way(REFERENCE, adamw, (5e-4, 1e-3, 2e-3, 4e-3)),
    Way("AdamW, 8 bits", functools.partial(adamw, storage="8bit"), REFERENCE),
    Way("Lion", lion, (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)),
    Way("Muon", muon, (2e-3, 4e-3, 8e-3, 1.6e-2)),
    Way("Muon, 8 bits", functools.partial(muon, storage="8bit"), "Muon"),
    Way("Muon, iteration in bfloat16", functools.partial(muon, dtype="bfloat16"), "Muon"),
    Way("NorMuon", normuon, "Muon"),
    Way("hyperball", hyperball, (1e-2, 2e-2, 4e-2, 8e-2)),
)


def sizes(quick: bool, platform: str) -> Sizes:
    """Half an hour of CPU time, and more seconds than that where others share the cores."""
    if quick:
        return Sizes(gpt.Sizes(32, 1, 16), 2, 4, 2, 4, (WAYS[0], WAYS[3]), 2, 1, None)
    return Sizes(gpt.Sizes(192, 6, 64), 8, 120, 20, 64, WAYS, 3, 15, (gpt.Sizes(128, 2, 64), 8, 1000))


def measure(sizes: Sizes, peers: Peers) -> Iterator[dict]:
    """What was tried, losses by step, a step beside AdamW's, and what all of it comes to."""
    trainings = {way.name: training(way, sizes) for way in sizes.ways}
    found: dict[str, Found] = {}
    for way in track(sizes.ways, "trainings", console=Console(stderr=True)):
        found[way.name] = trained(way, trainings[way.name], sizes, found)
    yield from tables(sizes, found, of_a_step(trainings, sizes, found))
    if sizes.directions:
        yield directions.table(*sizes.directions)


def tables(sizes: Sizes, found: dict[str, Found], step: dict) -> Iterator[dict]:
    """Of trainings and the table of a step."""
    rows = [{"name": name, "rates": [*x.last], "last losses": [*x.last.values()]} for name, x in found.items()]
    yield {"title": "rates, from the first seed", "rows": rows}
    steps = range(0, sizes.steps + 1, sizes.every)
    rows = [
        {"name": name, "steps": [*steps], "means": x.losses.mean(0).tolist()}
        | {f"from seed {seed}": losses.tolist() for seed, losses in enumerate(x.losses)}
        for name, x in found.items()
    ]
    yield {"title": "losses by step", "rows": rows}
    yield step
    yield summary(sizes, found, {row["name"]: row["seconds"] for row in step["rows"]})


def summary(sizes: Sizes, found: dict[str, Found], seconds: dict[str, float]) -> dict:
    """The last losses, and the steps and seconds until the mean loss is the last one of AdamW."""
    params, rows = shapes(sizes), []
    target = found[REFERENCE].losses[:, -1].mean()
    for way in sizes.ways:
        losses, rate = found[way.name].losses, found[way.name].rate
        state = ewa_optax.state_bytes(way.make(course(rate, sizes.steps)), params)
        row = {"name": way.name, "rate": rate, "final losses": losses[:, -1].tolist()}
        row |= {"mean": float(losses[:, -1].mean()), "bytes of state": state}
        until = first_below(losses.mean(0), target)
        if until is not None:
            row |= {"steps to AdamW's loss": sizes.every * until}
            row |= {"seconds to AdamW's loss": sizes.every * until * seconds[way.name]}
        rows.append(row)
    size = sum(p.size for p in jax.tree.leaves(params))
    title = f"{sizes.steps} steps of {sizes.batch} x {sizes.model.context} characters"
    return {"title": title, "parameters": size, "rows": rows}


def first_below(losses: np.ndarray, target: float) -> float | None:
    """How far along a curve is first at the target or below, linear in between; None, if it never is."""
    below = np.flatnonzero(losses <= target)
    if not below.size:
        return None
    i = int(below[0])
    return float(i - (target - losses[i]) / (losses[i - 1] - losses[i])) if i else 0.0


def course(peak: Any, steps: int) -> optax.Schedule:
    """A tenth to warm up, the last half to cool down."""
    rate = ewa_optax.schedule_warmup(peak, steps // 10)
    return ewa_optax.schedule_cooldown(rate, steps - steps // 2, steps // 2)


def shapes(sizes: Sizes) -> Any:
    """Those of the parameters."""
    return jax.eval_shape(functools.partial(gpt.init, sizes.model), jax.random.key(0))


def training(way: Way, sizes: Sizes) -> Training:
    """One program for all rates, seeds and numbers of steps."""

    def optimizer(rate):
        return way.make(course(rate, sizes.steps))

    def start(rate, seed):
        params = _first(sizes.model, jax.random.key(seed))
        return params, optimizer(rate).init(params)

    @functools.partial(jax.jit, donate_argnums=0)
    def advance(both, first, end, rate, seed, text):
        def step(t, both):
            params, state = both
            key = jax.random.fold_in(jax.random.key(seed), t)
            gradients = jax.grad(gpt.loss)(params, gpt.batch(text, sizes.batch, sizes.model.context, key))
            updates, state = optimizer(rate).update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(first, end, step, both)

    return Training(start, advance)


def trained(way: Way, made: Training, sizes: Sizes, before: dict[str, Found]) -> Found:
    """Every rate from the first seed, and the best of them from all."""
    rates = (before[way.rates].rate,) if isinstance(way.rates, str) else way.rates
    first = {rate: curve(made, sizes, rate, 0) for rate in rates}
    last = {rate: float(losses[-1]) for rate, losses in first.items()}
    best = min(rates, key=lambda rate: np.nan_to_num(last[rate], nan=np.inf))
    others = (curve(made, sizes, best, seed) for seed in range(1, sizes.seeds))
    return Found(last, best, np.stack([first[best], *others]))


def curve(training: Training, sizes: Sizes, rate: float, seed: int) -> np.ndarray:
    """Losses on the held-out text, before the first step and after each so many."""
    text, held_out = gpt.text()
    places = np.linspace(0, len(held_out) - sizes.model.context - 1, sizes.judged).astype(int)
    judged = held_out[places[:, None] + np.arange(sizes.model.context + 1)]
    both = training.start(rate, seed)
    losses = [_loss(both[0], judged)]
    for first in range(0, sizes.steps, sizes.every):
        both = training.advance(both, first, first + sizes.every, rate, seed, text)
        losses.append(_loss(both[0], judged))
    return np.array(losses, float)


_first, _loss = jax.jit(gpt.init, static_argnums=0), jax.jit(gpt.loss)


def of_a_step(trainings: dict[str, Training], sizes: Sizes, found: dict[str, Found]) -> dict:
    """What a step takes, its gradient with it, in turns: in CPU time on a CPU, which others may have a share of."""
    text = gpt.text()[0]
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    states = {name: made.start(found[name].rate, 0) for name, made in trainings.items()}

    def seconds(name, i):
        began = clock()
        states[name] = trainings[name].advance(states[name], i, i + 1, found[name].rate, 0, text)
        jax.block_until_ready(states[name])
        return clock() - began

    measures = {name: functools.partial(seconds, name) for name in trainings}
    rows = measuring.rows(measuring.in_turns(measures, sizes.turns, STEP), REFERENCE)
    return {"title": STEP, "turns": sizes.turns, "reference": REFERENCE, "rows": rows}
