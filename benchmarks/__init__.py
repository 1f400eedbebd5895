"""One folder per question; README.md has the table. In the repository's root: `python -m benchmarks.FOLDER.SCRIPT`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHIPPED = ROOT / "src" / "distillaw" / "studies"
"""Tables of trained runs that the package ships."""
