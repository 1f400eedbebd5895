"""How long the planner page takes from a change of input to the answer, in headless Chromium.

    python -m benchmarks.answers.page --out benchmarks/results/page.json
    python -m benchmarks.answers.page --against before.html    # another version's page in the same run

Needs playwright (pip) and Chromium (Debian). Every change is typed into the real page; the clock runs from the input
event to the verdict in the document, and to the last figure drawn.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.result_file import save, typed
from distillaw.page.bundle import write_planner_page

_TOKENS = ["21B", "25B", "30B", "40B", "60B", "90B", "22B", "27B", "33B", "44B"]
_SIZES = ["1.1B", "1.2B", "1.4B", "2B", "900M", "800M", "700M", "1.5B", "1.6B"]
_BILLS = ["1.1e21", "2e21", "3e21", "5e21", "9e20", "8e20", "7e20"]
CHANGES = {
    "tokens, one teacher": ("", "budget", _TOKENS),
    "tokens, four teachers": (
        "teacher=pythia-1.4b&teacher=pythia-2.8b&teacher=pythia-6.9b&teacher=pythia-12b&own=",
        "budget",
        _TOKENS,
    ),
    "compute, a teacher to train": ("budgetKind=compute&budget=1e21", "student", _SIZES),
    "compute, free size": ("budgetKind=compute&budget=1e21&student=&maxStudent=3B", "budget", _BILLS),
}
MEASURE = """([id, value]) => new Promise(done => {
  const said = document.querySelector('[data-testid=sentence]'), input = document.getElementById(id);
  const frames = [...document.querySelectorAll('.frame')], start = performance.now();
  let answered = null, last = null;
  const watch = new MutationObserver(() => { answered ??= performance.now() - start; });
  watch.observe(said, {childList: true, characterData: true, subtree: true});
  const drawn = new MutationObserver(() => { last = performance.now() - start; });
  frames.forEach(f => drawn.observe(f, {childList: true}));
  input.value = value; input.dispatchEvent(new Event('input', {bubbles: true}));
  setTimeout(() => done([answered, last]), 350);
})"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="a page that another version wrote")
    asked = parser.parse_args()
    pages = {"this": write_planner_page(Path(tempfile.mkdtemp()) / "planner.html")}
    if asked.against:
        pages["against"] = asked.against.resolve()
    found = measured(pages, asked.rounds)
    for version, rows in found.items():
        for name, row in rows.items():
            print(
                f"{version:8} {name:28} answer {row['answer_ms']['median']:6.1f} ms (90 %: "
                f"{row['answer_ms']['p90']:.1f}), last figure {row['figures_ms']['median']:6.1f} ms"
            )
    if asked.out:
        load = {"load_average": os.getloadavg(), "cpus": os.cpu_count()}
        save(asked.out, typed(), **load, **found)


def measured(pages: dict[str, Path], rounds: int) -> dict[str, dict[str, dict]]:
    """Milliseconds by page and kind of change; one page is open at a time: each goes on searching when left alone."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or sys.exit("no Chromium: apt-get install chromium")
    found: dict[str, dict[str, dict]] = {version: {} for version in pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        for name, (address, field, values) in CHANGES.items():
            for version, file in pages.items():
                page = _opened(browser, file, address)
                times = [page.evaluate(MEASURE, [field, value]) for value in values * rounds][2:]
                page.context.close()
                answers, figures = ([pair[k] for pair in times] for k in (0, 1))
                found[version][name] = {"answer_ms": _summary(answers), "figures_ms": _summary(figures)}
        browser.close()
    return found


def _opened(browser, file: Path, address: str):
    """The page once it has drawn, searched and drawn ahead."""
    page = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{file.as_uri()}#{address}")
    page.wait_for_selector("[data-testid=figure-cost] svg")
    page.wait_for_timeout(8000)
    return page


def _summary(times: list[float]) -> dict[str, float]:
    known = sorted(t for t in times if t is not None)
    return {
        "n": len(known),
        "median": statistics.median(known),
        "p90": known[int(0.9 * (len(known) - 1))],
        "lowest": known[0],
        "highest": known[-1],
    }


if __name__ == "__main__":
    main()
