"""The course week as notebooks, and what executes them: `python -m notebooks.execute`."""
