"""Measurements behind the claims of README and `docs/`: `python -m benchmarks` runs them, all in one way.

Each benchmark is a module with `sizes(quick, platform)`, which says how much there is to measure, and
`measure(sizes, peers)`, which gives one table after the other. `measuring` is how variants are compared, `records` the
form of the results, `pages` what README and `docs/` show of those in `results/`, `pictures` what is drawn of them.
"""
