"""Equality first, then time and memory: ``python -m tests.benchmarks`` (``--quick`` for a minute's worth)."""
