"""The page says what the numbers say, finished or not."""

import html
import re

import pytest
from synthetic import make_study, write_study

from distillaw.errors import DataError
from distillaw.report.large_batch import summarise, write_large_batch_report


def text_of(path):
    text = path.read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text.split("<main>")[1].split("<script>")[0])))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_study(folder, make_study())
    return text_of(write_large_batch_report(folder))


def test_ours_stands_beside_the_papers(page):
    assert "The large batch loses 1.20 points" in page
    assert re.search(r"\+RA 98\.50 \(98\.\d\d to 98\.\d\d\) 98\.53 125\s%", page), (
        "ours, its interval, the paper's, the share"
    )
    assert "Reproduces, sign and size (the paper's number lies in our interval): Large batch against small" in page
    assert "Not resolved" in page and "Ghost batch norm (+GBN − +LR)" in page
    assert "arXiv:1705.08741" in page and "selected on it" in page and "single numbers" in page.lower()


def test_the_figure_has_both_panels_and_fits(page, tmp_path):
    write_study(tmp_path, make_study())
    svg = write_large_batch_report(tmp_path).read_text(encoding="utf-8")
    walks = svg[svg.index('<figure id="walks">') :]
    walks = walks[: walks.index("</figure>")]
    for word in ("before", "after LR + GBN", "a + b ln t", "c t^p", "batch 4096"):
        assert word in walks
    assert "xmlns" not in walks and "http" not in walks, "one file, nothing fetched"


def test_settings_that_are_not_the_papers_are_listed(page):
    assert "momentum forgotten at every epoch no (paper yes)" in page and "mirrored images no (paper yes)" in page
    assert "width" not in page.split("Sizes may differ")[0].split("Not the paper's experiment")[1]


def test_an_unfinished_study_has_a_page(tmp_path):
    study = make_study(seeds=3)
    write_study(tmp_path, study, diverged=("+LR",), skip=lambda cell: cell.column == "+RA" or cell.seed > 1)
    page = text_of(write_large_batch_report(tmp_path))
    assert "+RA has not finished" in page and "+LR seed 0 diverged: the loss is nan by step 50" in page
    assert "cells have not finished" in page and "3 seeds" in page


def test_a_study_without_diffusion_or_paper(tmp_path):
    from distillaw.large_batch.images.spec import DiffusionSpec

    write_study(tmp_path, make_study(paper="", diffusion=DiffusionSpec(), columns=("SB", "LB")))
    page = text_of(write_large_batch_report(tmp_path))
    assert "No curve of the first phase" in page and "Does the paper's table reproduce?" in page
    assert summarise(tmp_path)["gains"][0]["outcome"] == "not in the paper"


def test_nothing_finished_is_said(tmp_path):
    write_study(tmp_path, make_study(), skip=lambda cell: True)
    with pytest.raises(DataError, match="no cell has finished"):
        write_large_batch_report(tmp_path)
