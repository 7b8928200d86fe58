"""Benchmarks: each `bench_*.py` measures and returns table rows from `rows()`; `python -m bench` runs them all."""
