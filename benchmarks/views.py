"""Records of results as paragraphs and tables in Markdown, those that README and the pages of `docs/` show."""

import math
import re
import textwrap

from benchmarks.records import ratio
from ewa_optax._compare.digits import LEARNING_RATES
from ewa_optax.series._methods import FEW_LANES

LOSS = "mean loss / float32's"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def named(table: dict) -> dict[str, dict]:
    """The rows by name."""
    return {row["name"]: row for row in table["rows"]}


def pivot(head: str, tables: dict[str, dict], cell) -> str:
    """A column for each table, with a cell for each name that any of them has."""
    rows = {title: named(table) for title, table in tables.items()}
    names = dict.fromkeys(name for found in rows.values() for name in found)
    cells = [[name, *(cell(found[name]) if name in found else "" for found in rows.values())] for name in names]
    return markdown([head, *tables], [row for row in cells if any(row[1:])])


def milliseconds(row: dict) -> str:
    """Three digits of them."""
    return f"{1000 * row['seconds']:.3g}"


def matching(record: dict, pattern: str) -> dict[str, dict]:
    """The tables whose titles match, by the first group of the match."""
    found = {table["title"]: re.fullmatch(pattern, table["title"]) for table in record["tables"]}
    return {match[1]: table for table in record["tables"] if (match := found[table["title"]])}


def step(record: dict) -> list[str]:
    """One leaf, and trees: update, step, and what they take to compile."""
    first, *others = matching(record, "one leaf of (.*): .*").items()
    rows = []
    for row in first[1]["rows"]:
        share = f"{row['share of the limit']:.2f}"
        beside = (named(table).get(row["name"]) for _, table in others)
        rows.append([row["name"], milliseconds(row), ratio(row), share, *(ratio(x) if x else "" for x in beside)])
    head = [f"one leaf of {first[0]}", "milliseconds", "/ optax.adam", f"share of {first[1]['limit']}"]
    leaf = markdown([*head, *(f"{title}: / optax.adam" for title, _ in others)], rows)

    def timed(row):
        return f"{milliseconds(row)}, {ratio(row)}"

    def compiled(row):
        return f"{row['trace seconds'] + row['compile seconds']:.3g}" if "trace seconds" in row else ""

    def made(part):
        found = matching(record, f"(.*leaves.*): to {part} the update")
        return [pivot(f"{part} the update: milliseconds, / optax.adam", found, timed)] if found else []

    updates, steps = matching(record, "(.*leaves.*): update.*"), matching(record, "(.*leaves.*): step.*")
    first_states = matching(record, "(.*): to compile the first state")
    imported = [
        markdown(["the import: milliseconds", ""], [[row["name"], milliseconds(row)] for row in table["rows"]])
        for table in matching(record, "(the import), .*").values()
    ]
    return [
        leaf,
        pivot("update of given gradients: milliseconds, / optax.adam", updates, timed),
        pivot("step, with the gradient of a loss: milliseconds, / optax.adam", steps, timed),
        *(table for part in ("trace", "lower", "compile") for table in made(part)),
        pivot("seconds to trace and compile the update", updates, compiled),
        pivot("seconds to trace and compile the step", steps, compiled),
        *([pivot("compile the first state: milliseconds, / optax.adam", first_states, timed)] if first_states else []),
        *imported,
    ]


def epoch(record: dict) -> list[str]:
    """The peers, the loop in Python, and what is said of memory and learning rates."""
    ((title, headline),) = matching(record, "(logistic regression, .*)").items()
    rows = [[row["name"], f"{row['seconds']:.3g}", ratio(row)] for row in headline["rows"]]
    loops = []
    for name, table in matching(record, "((?:MLP|CNN), .*)").items():
        found = named(table)
        times = [found["minibatch.epoch"], found["Python loop over a jitted step"]]
        loops.append([name, *map(milliseconds, times), ratio(times[1])])
    ((memory,),) = (table["rows"] for table in matching(record, "(memory .*)").values())
    over = (memory["peak bytes"] - memory["bytes of data"]) / 2**20
    rates = matching(record, r"(\d+) learning rates .*, compilation included"), matching(record, r"(\d+) .* 5 epochs")
    ((count, compiling),), ((_, compiled),) = (found.items() for found in rates)
    (together, single), (now, calls) = (
        [f"{row['seconds']:.3g}" for row in table["rows"]] for table in (compiling, compiled)
    )
    said = (
        f"Memory peaked at {over:.0f} MiB above the data. {count} trainings of a softmax regression under `jax.vmap` "
        f"took {together} seconds, compilation included, and {single} where each was compiled for its rate; once "
        f"compiled, {now} seconds, and {calls} as {count} calls of one compiled program."
    )
    for name, table in matching(record, "(two moons, .*)").items():
        by_fit = named(table)["fit, another rate each time"]
        said += (
            f" Of {name}, a net of 37 parameters takes {by_fit['seconds']:.2g} seconds by `fit`, {ratio(by_fit)} times "
            "what it takes in NumPy by hand, with another learning rate each time."
        )
    head = ["", "`minibatch.epoch`, ms", "Python loop over a jitted step, ms", "ratio"]
    return [markdown([title, "seconds an epoch", "ratio"], rows), markdown(head, loops), textwrap.fill(said, 120)]


def series(record: dict) -> list[str]:
    """Cases side by side, and the ways on each shape: the one that is taken is bold."""
    whole = matching(record, r"(\d+ points|\d+ series of .*)")
    gaps = matching(record, r"\d+ points,? (a tenth missing|at irregular times)")
    rows = []
    shapes = matching(record, "shape (.*)")
    for title, table in shapes.items():
        *shape, axis = map(int, re.findall(r"\d+", title))
        taken = way(math.prod(shape[axis + 1 :]), record["machine"]["platform"])
        cells = (f"**{milliseconds(x)}**" if x["name"] == taken else milliseconds(x) for x in table["rows"])
        rows.append([title.partition(",")[0], f"{axis}", *cells])
    head = ["shape", "axis", *named(next(iter(shapes.values())))]
    return [
        pivot("milliseconds", whole, milliseconds),
        pivot("milliseconds", gaps, milliseconds),
        markdown(head, rows),
    ]


def way(lanes: int, platform: str) -> str:
    """The method that `series.ewa` takes by itself."""
    return "serial" if platform == "cpu" and lanes > FEW_LANES else "blocks"


def low_precision(record: dict) -> list[str]:
    """Mean final losses over those of float32."""
    tables = {t["title"]: t for t in record["tables"] if LOSS in t["rows"][0]}
    shown = {title: {"rows": table["rows"][1:]} for title, table in tables.items()}
    return [pivot("averages", shown, lambda row: f"{row[LOSS]:.3f}")]


def memory(record: dict) -> list[str]:
    """What a step needs beside the state, and what processes hold."""

    def of_step(row):
        return f"{row['state']:.2f}, {row['peak']:.1f}"

    def of_process(row):
        return f"{row['peak of init']:.1f}, {row['the program']:.1f}, {row['peak of the steps']:.1f}"

    steps, nets = matching(record, "(.*): .* of a step"), matching(record, "(.* parameters in .*): .* of a process")
    shown = [pivot("bytes a parameter: the state, the peak of a step", steps, of_step)]
    return shown + ([pivot("a process: peak of `init`, the program, peak of steps", nets, of_process)] if nets else [])


def exactness(record: dict) -> list[str]:
    """Errors by decay."""
    rows = [[row["name"], f"{row['ewa_optax']:.1e}", f"{row['optax']:.1e}"] for row in record["tables"][0]["rows"]]
    return [markdown([r"$\beta_2$", "ewa_optax", f"optax {record['versions']['optax']}"], rows)]


def lm(record: dict) -> list[str]:
    """What the trainings of the language model came to, and what was left of the directions of momentum."""
    steps = named(next(table for table in record["tables"] if table["title"].startswith("a step")))
    ((title, table),) = matching(record, r"(\d+ steps of \d+ x \d+ characters)").items()
    rows = []
    for row in table["rows"]:
        name, each = row["name"], sorted(row["final losses"])
        until = [
            f"{row[key]:.0f}" if key in row else "-" for key in ("steps to AdamW's loss", "seconds to AdamW's loss")
        ]
        loss = f"{row['mean']:.3f} ({each[0]:.3f} to {each[-1]:.3f})"
        size = f"{row['bytes of state'] / table['parameters']:.2f}"
        rows.append([name, f"{row['rate']:g}", loss, *until, ratio(steps[name]), size])
    head = [
        "rate",
        "last loss (of seeds)",
        "steps to AdamW's",
        "CPU seconds to it",
        "a step / AdamW's",
        "bytes a parameter",
    ]
    shown = [markdown([f"{table['parameters'] / 1e6:.1f} million parameters, {title}", *head], rows)]
    for title, table in matching(record, "directions of momentum after (.*)").items():
        head = ["cosine, exact", "cosine, five steps", "largest directions", "smallest directions"]
        rows = [
            [row["name"], *(" to ".join(f"{x:.3f}" for x in row.get(key, [])) for key in head)] for row in table["rows"]
        ]
        shown.append(markdown([f"after {title}", *head], rows))
    return shown


def in_short(memory: dict, low_precision: dict, exactness: dict, epoch: dict, step: dict) -> list[str]:
    """The figures that README shows, one of each kind."""
    adams = {row["name"]: row for row in exactness["tables"][0]["rows"]}["0.999"]
    ((model, kept),) = ((title, named(t)) for title, t in matching(memory, "(GPT-2), .*: .* of a step").items())
    bits, floats = (kept[name] for name in ("ewa_optax.adamw, 8bit", "optax.adamw"))
    tasks = [named(table)["8bit"][LOSS] for table in low_precision["tables"] if LOSS in table["rows"][0]]
    losses = ", ".join(f"{loss:.3f}" for loss in tasks)
    ((_, logistic),) = matching(epoch, "(logistic regression), .*").items()
    seconds = {name: f"{row['seconds']:.3g}" for name, row in named(logistic).items()}
    beside = f"{seconds['Python loop over a jitted step']}, a loop in Python"
    if "torch, DataLoader" in seconds:
        beside += f"; {seconds['torch, DataLoader']}, torch"
    small, leaf = (
        named(*matching(step, f"({title}), float32: update of given gradients").values())
        for title in ("3000 leaves of 64", "one leaf of 10000000")
    )
    stacks, leaves = small["ewa_optax.adam, stacked leaves"], small["optax.adam"]
    ratios = [f"{leaf[name]['ratio']:.2f}" for name in ("ewa_optax.adam", "ewa_optax.adam, 8bit")]
    rows = [
        [
            "largest median error of an Adam step, $\\beta_2 = 0.999$",
            f"{adams['ewa_optax']:.1e}",
            f"{adams['optax']:.1e}, optax",
            "[exactness](docs/why/exactness.md)",
        ],
        [
            f"AdamW of {model} in 8 bits, bytes a parameter: state, and all at the peak of a step",
            f"{bits['state']:.2f}, {bits['peak']:.1f}",
            f"{floats['state']:.2f}, {floats['peak']:.1f}, optax",
            "[low precision](docs/guide/low-precision.md)",
        ],
        [
            f"final losses of {len(tasks)} trainings in 8 bits, over those in float32",
            losses,
            "1",
            "[low precision](docs/guide/low-precision.md)",
        ],
        [
            "an epoch of 5 million examples in mini-batches of 1000, seconds",
            seconds["minibatch.epoch"],
            beside,
            "[mini-batches](docs/guide/mini-batches.md)",
        ],
        [
            "Adam's update of 3000 leaves of 64, in stacks, milliseconds",
            milliseconds(stacks),
            f"{milliseconds(leaves)}, optax",
            "[many small leaves](docs/guide/many-small-leaves.md)",
        ],
        [
            "Adam's update of 10 million parameters, in float32 and in 8 bits, time",
            ", ".join(ratios),
            "1, optax",
            "[cost](docs/why/cost.md)",
        ],
    ]
    return [markdown(["", "here", "beside it", "page"], rows)]


def muon(record: dict) -> list[str]:
    """A step of each kind of matrices."""
    found = []
    for table in record["tables"]:
        rows = [
            [row["name"], f"{1000 * row['seconds']:.0f}", ratio(row), f"{row['operations'] / 1e9:.1f}"]
            for row in table["rows"]
        ]
        found.append(markdown([table["title"], "milliseconds", "/ optax", "10^9 operations"], rows))
    return found


def rates() -> str:
    """The rates of `python -m ewa_optax compare`, largest first, with the optimizers that have them."""
    having: dict[float, list[str]] = {}
    for name, rate in LEARNING_RATES.items():
        having.setdefault(rate, []).append(f"`{name}`")
    rows = [[f"{rate:g}", ", ".join(names)] for rate, names in sorted(having.items(), reverse=True)]
    return markdown(["rate", "optimizers"], rows)
