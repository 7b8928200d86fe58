"""`python -m lamer_graph.cli` is `lamer-graph`."""

from lamer_graph.cli import main

main()
