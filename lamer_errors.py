"""The one root of everything that these packages raise on purpose.

A module of its own, below all four: environments and memory know nothing of each other or of the rest, and an
application still catches whatever goes wrong with `except lamer_graph.LamerError`. The boundaries that can be crossed
are in each package's `errors`.
"""


class LamerError(Exception):
    """Base class; every message is one clear line that says what was wrong and what would be right."""
