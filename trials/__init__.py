"""Trials that use the strategy for real; ``python -m trials.run TASK`` is their only entry."""
