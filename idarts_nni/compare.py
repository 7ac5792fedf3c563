"""Is a search better than drawing cells at random? What the results carry, in numbers and in words.

Each method is compared with random cells of the same task, n, way of joining, epochs, scale and (within 5 per cent)
number of parameters; or with another method, of one scale: then results of all scales stand against that, for scales
may differ in their searches alone. Runs of one cell with several seeds are averaged first where the records tell the
cell: what varies from search to search is the cell, and many retrainings of one cell do not show it.

With fewer than six values on a side a bootstrap is too narrow, for it cannot see a spread that the sample does not
show. The interval is then Welch's t interval, which takes the values for normally distributed; with six or more it is a
bootstrap-t interval, which does not. A claim also needs an exact permutation test to agree, and that test knows when
there are too few values for any claim: 3 against 3 can never reach 5 per cent, 4 against 4 can.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from .messages import FAILED
from .published import LOWER_IS_BETTER
from .report import COLUMNS, to_markdown

LEVEL = 0.95
LEAST_FOR_BOOTSTRAP = 6
"""Values on each side from which on the interval is a bootstrap's."""
RESAMPLES = 4999
MOST_ARRANGEMENTS = 50_000
"""Up to so many ways of dealing the values out the permutation test tries all; beyond, it draws as many."""
PARAMETERS_TOLERANCE = 0.05
RANDOM = "random"
_GROUP = ("task", "n", "combine", "epochs")


@dataclass(frozen=True)
class Difference:
    """A method against random cells; negative where the method's numbers are lower."""

    mean: float
    low: float
    high: float
    """Ends of the 95 per cent interval; infinite where a side has a single value."""
    p: float
    """Two-sided, of the exact permutation test."""
    least_p: float
    """The smallest that so many values can give."""
    rule: str
    """Where the interval comes from."""

    @property
    def is_carried(self) -> bool:
        """Whether interval and test both tell the two sides apart."""
        return (self.low > 0.0 or self.high < 0.0) and self.p <= 1.0 - LEVEL + 1e-12


def difference(values: Sequence[float], others: Sequence[float], seed: int = 0) -> Difference:
    """Compare the means of two independent samples.

    Parameters
    ----------
    values, others
        Finite numbers, one or more on each side.
    seed
        Of the resampling.
    """
    one, other = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    mean = float(one.mean() - other.mean())
    p, least = _permutation(one, other, seed)
    if min(len(one), len(other)) < 2:
        return Difference(mean, -math.inf, math.inf, p, least, "none: a single value has no spread")
    if min(len(one), len(other)) < LEAST_FOR_BOOTSTRAP:
        return Difference(mean, *_welch(one, other), p, least, "Welch's t")
    return Difference(mean, *_bootstrap_t(one, other, seed), p, least, "bootstrap-t")


def _welch(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    if one.std() == other.std() == 0.0:
        return (float(one.mean() - other.mean()),) * 2
    interval = stats.ttest_ind(one, other, equal_var=False).confidence_interval(LEVEL)
    return float(interval.low), float(interval.high)


def _bootstrap_t(one: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the studentised bootstrap interval (Efron and Tibshirani, An Introduction to the Bootstrap, 12.5)."""
    generator = np.random.default_rng(seed)
    mean, error = one.mean() - other.mean(), _standard_error(one, other)
    drawn = [generator.choice(side, (RESAMPLES, len(side))) for side in (one, other)]
    errors = _standard_error(*drawn)
    usable = errors > 0.0
    ratios = (drawn[0].mean(-1) - drawn[1].mean(-1) - mean)[usable] / errors[usable]
    if not len(ratios):
        return float(mean), float(mean)
    low, high = np.quantile(ratios, [(1.0 + LEVEL) / 2.0, (1.0 - LEVEL) / 2.0])
    return float(mean - low * error), float(mean - high * error)


def _standard_error(one: np.ndarray, other: np.ndarray) -> Any:
    return np.sqrt(one.var(-1, ddof=1) / one.shape[-1] + other.var(-1, ddof=1) / other.shape[-1])


def _permutation(one: np.ndarray, other: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the two-sided p of the difference of means, and the least p that samples of these sizes allow."""
    joined, size = np.concatenate([one, other]), len(one)
    arrangements = math.comb(len(joined), size)
    if arrangements <= MOST_ARRANGEMENTS:
        places = np.array(list(itertools.combinations(range(len(joined)), size)))
    else:
        generator = np.random.default_rng(seed)
        places = generator.permuted(np.tile(np.arange(len(joined)), (MOST_ARRANGEMENTS, 1)), axis=1)[:, :size]
    sums = joined[places].sum(1)
    means = sums / size - (joined.sum() - sums) / len(other)
    # Sums in another order differ in their last digits.
    extreme = np.abs(means) >= abs(one.mean() - other.mean()) - 1e-9 * max(1.0, np.abs(joined).max())
    least = min(1.0, (2 if len(one) == len(other) else 1) / arrangements)
    if arrangements <= MOST_ARRANGEMENTS:
        return float(extreme.mean()), least
    return float((extreme.sum() + 1) / (len(places) + 1)), least


def compare_methods(
    table: pd.DataFrame, column: str, lower_is_better: bool, against: str = RANDOM
) -> tuple[str, list[str]]:
    """Compare every method with random cells, or with another method, of its space and budget.

    Parameters
    ----------
    table
        Retrained results: the columns of :data:`idarts_nni.report.COLUMNS`, and ``cell`` where it is known.
    column
        ``validation`` or ``test``.
    lower_is_better
        Of that column.
    against
        The method to compare with, and after a colon its scale; without a scale results are compared within theirs.

    Returns
    -------
    A Markdown table, and one sentence for each comparison.
    """
    data = _final_cells(table)
    for name in ("validation", "test", "parameters", "epochs"):
        data[name] = pd.to_numeric(data[name], errors="coerce")
    lost = int(data[column].isna().sum())
    data = data[data[column].notna() & np.isfinite(data[column])]
    baseline, _, scale = against.partition(":")
    other = f"{RANDOM} cells" if against == RANDOM else against
    has_scales = data["scale"].nunique() > 1
    rows, sentences, compared, claimed = [], [], 0, False
    for _, group in data.groupby([*_GROUP, *([] if scale else ["scale"])], sort=False, dropna=False):
        others = group[(group["method"] == baseline) & ((group["scale"] == scale) | (not scale))]
        for (method, own_scale), runs in group.groupby(["method", "scale"], sort=False):
            values, first = _units(runs, column), runs.iloc[0]
            row = [str(method), str(first["n"]), str(first["combine"]), *([str(own_scale)] if has_scales else [])]
            row += [f"{first['epochs']:g}", f"{len(values)} ({len(runs)})", _spread(values)]
            if method == baseline and scale in ("", own_scale):
                rows.append([*row, "", "", ""])
                continue
            name = _named(first, own_scale if has_scales else "")
            reason, found = _against(runs, others, column, other)
            if found is None:
                rows.append([*row, "", "", ""])
                sentences.append(f"{name}: {reason}")
                continue
            compared, claimed = compared + 1, claimed or found.is_carried
            interval = f"{found.low:+.2f} to {found.high:+.2f} ({found.rule})"
            rows.append([*row, f"{found.mean:+.2f}", interval, f"{found.p:.3f}"])
            sentences.append(f"{name}: {_verdict(found, lower_is_better, other)}")
    header = ["method", "n", "combine", *(["scale"] if has_scales else []), "epochs", "cells (runs)", column]
    header += [f"minus {against}", "95 % interval", "p"]
    if claimed and compared > 1:
        sentences.append(
            f"Of {compared} comparisons, each may claim by chance in 5 of 100 cases; together they do so more often."
        )
    if lost:
        sentences.append(f"{lost} run(s) ended without a number and count nowhere above, which flatters their method.")
    return to_markdown(header, rows), sentences


def _against(runs: pd.DataFrame, others: pd.DataFrame, column: str, other: str) -> tuple[str, Difference | None]:
    if others.empty:
        return f"there are no {other} of the same task, n, way of joining and epochs to compare with.", None
    mine, theirs = float(runs["parameters"].mean()), float(others["parameters"].mean())
    if abs(mine - theirs) > PARAMETERS_TOLERANCE * theirs:
        return f"its {mine:,.0f} parameters are not the budget of {_the(other)}, {theirs:,.0f}.", None
    return "", difference(_units(runs, column), _units(others, column))


def _units(runs: pd.DataFrame, column: str) -> list[float]:
    """Return one value for each cell (its mean over seeds), else for each search, else (neither known) for each run."""
    for name in ("cell", "search_seed"):
        if name in runs and runs[name].notna().all() and (runs[name] != "").all():
            return [float(value) for value in runs.groupby(name, sort=False)[column].mean()]
    return [float(value) for value in runs[column]]


def _final_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out cells of earlier search epochs: each would count beside the final cell of the same search."""
    data = table.copy()
    if "scale" not in data:
        data["scale"] = ""
    data["scale"] = data["scale"].fillna("")
    return data[data["search_epoch"].isin(["", None]) | data["search_epoch"].isna()] if "search_epoch" in data else data


def _verdict(found: Difference, lower_is_better: bool, other: str) -> str:
    if found.is_carried:
        better = (found.mean < 0.0) == lower_is_better
        return (
            f"{'better' if better else 'worse'} than {other} by {abs(found.mean):.2f}, "
            f"and the data carry that claim (95 % interval {found.low:+.2f} to {found.high:+.2f}, p = {found.p:.3f})."
        )
    if found.least_p > 1.0 - LEVEL + 1e-12:
        return (
            f"the data cannot carry any claim: with so few cells even the clearest order of results has "
            f"p = {found.least_p:.2f}. Of equal numbers, 4 cells on each side are the least."
        )
    return (
        f"the data do not carry a claim: the difference may be anything from {found.low:+.2f} to {found.high:+.2f} "
        f"(p = {found.p:.3f})."
    )


def _named(run: pd.Series, scale: str) -> str:
    marks = f"{run['task']}, n={run['n']}, {run['combine']}, {run['epochs']:g} epochs{f', {scale}' if scale else ''}"
    return f"{run['method']} ({marks})"


def _the(other: str) -> str:
    return f"the {other}" if other.startswith(f"{RANDOM} ") else other


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def compare(options: argparse.Namespace) -> int:
    """Run ``idarts compare``."""
    records, table = _read(options.source)
    lower = _direction(options.better, records)
    method, _, scale = options.against.partition(":")
    ours = table[table["method"] == method]
    if ours.empty and method == RANDOM:
        raise ValueError(f"{options.source}: no random cell was retrained; add random to the plan's methods.")
    if ours.empty or (scale and scale not in set(ours["scale"])):
        known = sorted({f"{one}:{its}" for one, its in zip(table["method"], table["scale"], strict=True)})
        raise ValueError(f"--against {options.against}: there is no such result; found {', '.join(known)}.")
    text, sentences = compare_methods(table, options.column, lower, options.against)
    print(text)
    if "cell" not in table:
        print("A results file tells the search of a run, not its cell: runs of one search count once, as their mean;")
        print("where the search is not told either, each run counts.\n")
    print("\n".join(sentences))
    return FAILED if table["validation"].isin(["", None]).any() else 0


def _read(source: str) -> tuple[Sequence[Mapping[str, Any]], pd.DataFrame]:
    if source.endswith(".csv"):
        from .results import read_results

        return [], read_results(source)
    from .gather import all_records, gather

    records = [record for record in all_records(gather([source])) if record["stage"] == "retrain"]
    if not records:
        raise ValueError(f"{source}: there is no record of a retraining in it.")
    columns = [*COLUMNS, "cell"]
    return records, pd.DataFrame([{name: record.get(name) for name in columns} for record in records], dtype=object)


def _direction(better: str | None, records: Sequence[Mapping[str, Any]]) -> bool:
    if better is not None:
        return better == "lower"
    metrics = {str(record["metric"]) for record in records if record.get("metric")}
    if len(metrics) == 1 and (name := metrics.pop()) in LOWER_IS_BETTER:
        return LOWER_IS_BETTER[name]
    raise ValueError("whether a low number is good is not known here: add --better lower (perplexity) or higher (F1).")
