import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from idarts_nni.architecture import Architecture
from idarts_nni.gather import Source
from idarts_nni.page import render_page
from idarts_nni.space import CellSpace

from .test_draw import IMAGE_CELL
from .test_report import failed, record

EVIL = "<script>document.title = 'caught'</script><img src=x onerror=alert(1)>"
SPACE = CellSpace(3, ("zeroize", "tanh", "relu"), edges_per_node=2, combine="weighted")


def found_cell(seed: int) -> dict:
    return Architecture.random(SPACE, seed).to_dict()


def search(method="idarts", epochs=4):
    """Return the record of a search with all that a search records."""
    steps = []
    for epoch in range(1, epochs + 1):
        rows = [[1 / (3 * node)] * (3 * node) for node in (1, 2, 3)]
        rows[0] = [0.2, 0.5 + epoch / 100, 0.3 - epoch / 100]
        steps.append({"epoch": epoch, "architecture": found_cell(epoch), "probabilities": rows})
    health = [{"epoch": step["epoch"], "default": 100.0 / step["epoch"], "entropy": 0.9, "margin": 0.1,
               "changed edges": 2, "entropy 1": 0.5} for step in steps]  # fmt: skip
    return record(method, stage="search", n="2", architecture=found_cell(epochs), trajectory=steps, history=health,
                  space=SPACE.to_dict(), settings={"epochs": epochs, "hidden_size": 8})  # fmt: skip


def everything():
    """Return records that fill every section of the page."""
    curve = [{"epoch": epoch, "default": 300.0 / epoch} for epoch in range(1, 4)]
    retrained = [
        record(method, seed, 100.0 + seed, n="2", architecture=found_cell(4), history=curve, scale="small",
               settings={"epochs": 3}, search_epoch=epoch, key=f"retrain-{method}-{epoch}-r{seed}")
        for method in ("idarts", "darts") for seed in (1, 2) for epoch in (None, 2, 4)
    ]  # fmt: skip
    image = record("random", architecture=IMAGE_CELL.to_dict(), experiment="images", task="digits", metric="accuracy")
    gap = {**failed(), "failure": EVIL, "key": EVIL}
    return [search(), search("darts"), *retrained, image, gap, failed("lstm", state="todo")]


def page(records, **source):
    return render_page([Source("Exp1", records, Path("/tmp"), **source)], "today")


def test_page_is_complete_in_itself():
    text = page(everything(), title="small", state="RUNNING")
    assert "<script" not in text.lower() and "default-src 'none'" in text
    for address in re.findall(r"(?:src|srcset|href)=\"([^\"]*)\"", text):
        assert address.startswith(("data:image/svg+xml;base64,", "#")), address
    for anchor in re.findall(r'href="#([^"]*)"', text):
        assert f'id="{anchor}"' in text
    assert re.findall(r"https?://|url\(|@import", text) == []


def test_page_has_every_section():
    text = page(everything(), title="small", state="RUNNING", problem="the tuner gave up", config={
        "trialConcurrency": 2, "tuner": {"classArgs": {"methods": ["idarts"], "data": "/home/me/ptb"}},
    })  # fmt: skip
    for words in (
        "Results on ptb", "Published by others on Penn Treebank at full size, not measured here", "Learning curves",
        "Convergence of the searches", "Alphas of search-darts-r1", "Node 3: source and operation", "Kept cells",
        "found by search-idarts-r1", "the tuner gave up", "Not run yet: retrain-lstm-r9", "scale small", "abc1234",
        "tuner.<wbr>methods", "hidden_<wbr>size", "Results on digits", "edges_<wbr>per_<wbr>node", "Lower is better",
        "Higher is better",
    ):  # fmt: skip
        assert words in text, words
    assert "/home/me" not in text


def test_text_of_records_is_never_markup():
    text = page([*everything(), record(method=EVIL, device=EVIL, seed=EVIL)], title=EVIL, problem=EVIL)
    assert "<img src=x" not in text and "&lt;script&gt;" in text
    assert text.count("<script") == 0


def test_published_numbers_stand_apart_and_only_beside_their_task():
    text = page([record()])
    measured, _, published = text.partition('class="published"')
    assert "58.00" not in measured and "58.00" in published and published.count("published, Jiang et al. 2019") == 4
    assert "Published by others" not in page([record(task="digits")])


@pytest.mark.parametrize("corpus, shown", [("Penn Treebank", True), ("", True), ("embedded", False)])
def test_published_numbers_stand_only_beside_results_on_their_data(corpus, shown):
    text = page([record(corpus=corpus)])
    assert ("Published by others" in text) == shown and (f"Data: {corpus}." in text) == bool(corpus)


def test_group_says_how_many_of_its_runs_failed_and_what_sets_its_space_apart():
    spaces = [{**SPACE.to_dict(), "transform": transform} for transform in ("target", "source")]
    runs = [record(seed=seed, space=space) for seed, space in enumerate(spaces, start=1)]
    text = page([*runs, {**failed(), "n": "1", "combine": "sum"}])
    assert "1 of 2 runs without a result; transform target" in text and "scale full; transform source<" in text
    assert "transform" not in page(runs[:1]).partition("<details>")[0]


def test_experiment_whose_manager_was_stopped_after_its_last_task_has_ended():
    assert "ended; 1 of 1 known tasks" in page([record()], state="STOPPED")
    assert "stopped; 1 of 2 known tasks" in page([record(), failed(state="todo")], state="STOPPED")


def test_share_of_an_operation_that_the_space_lacks_is_not_drawn():
    curve = [{"epoch": epoch, "default": 1.0, "identity share": 0.0, "zeroize share": 0.2} for epoch in (1, 2)]
    text = page([record(stage="search", history=curve)])
    assert "Probability of zeroize" in text and "Probability of identity" not in text


def test_old_records_without_newer_fields_make_a_page():
    old = {**record(), "history": None}
    for name in ("settings", "versions", "history", "architecture", "metric", "cell", "scale"):
        del old[name]
    text = page([old])
    assert "scale not recorded" in text and "100.00" in text and "Convergence" not in text


def test_cells_of_a_search_epoch_are_no_results():
    early = record(seed=1, validation=500.0, search_epoch=1)
    text = page([record(seed=2, validation=100.0), early])
    assert re.search(r'data-label="validation perplexity">100\.00</td>', text)
    assert "Convergence of the searches" in text


def test_convergence_ends_with_the_end_of_the_search():
    records = [record(seed=2, validation=100.0), record(seed=1, validation=500.0, search_epoch=1)]
    assert "of 1 retrained cells" in page(records)  # how long the search was is not known
    ended = record(stage="search", epochs=4)
    assert "of 2 retrained cells" in page([ended, *records])
    assert "of 2 retrained cells" in page([ended, *records, record(search_epoch=4)])


def test_budgets_have_a_table_each():
    other = record(seed=2, settings={"epochs": 9}, validation=50.0, experiment="large")
    sources = [Source("a", [record(settings={"epochs": 3})], Path("/tmp"), "small one"), Source("b", [other], None)]
    text = render_page(sources, "today")
    assert "Results on ptb (small one)" in text and "Results on ptb (b)" in text and "75.00" not in text


def test_experiment_without_a_retrained_cell_shows_what_the_searches_found():
    text = page([search()])
    assert "Nothing has been retrained yet" in text and "Cells found so far" in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 768, 1141, 1440])
def test_page_needs_no_horizontal_scrolling_and_runs_nothing(tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("There is no Chromium on this machine.")
    config = {"trialCommand": "python " + "x" * 300}
    first = Source("Exp1", everything(), Path("/tmp"), "small", problem=EVIL, config=config)
    rows = [{**record(experiment="-"), "settings": None, "source": "results_of_" + "other_" * 12 + "runs.csv"}]
    text = render_page([first, Source(rows[0]["source"], rows)], "today")
    (tmp_path / "report.html").write_text(text)
    # Another page measures this one in a frame of the given width.
    opened = "d.querySelectorAll('details').forEach(one => one.open = true)"
    measure = "JSON.stringify({wide: d.documentElement.scrollWidth, title: d.title, broken: [...d.images].filter(" \
              "i => i.complete && !i.naturalWidth).length, images: d.images.length})"  # fmt: skip
    (tmp_path / "frame.html").write_text(
        f"<iframe id=f src=report.html style='width:{width}px;height:900px;border:0'></iframe><script>"
        f"f.onload = () => {{ const d = f.contentDocument; {opened}; document.body.textContent = {measure}; }}</script>"
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000",
               f"file://{tmp_path / 'frame.html'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"\{.*\}", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    measured = json.loads(found[0])
    assert measured["wide"] <= width and measured["broken"] == 0 and measured["images"] > 15
    assert measured["title"] == "2 experiments on ptb, digits"
