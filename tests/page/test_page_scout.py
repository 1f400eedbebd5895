"""Teachers measured on one's own text, pasted into the page: what `distillaw scout --json` prints, from real models."""

import json
import shlex

import pytest

from in_process import answer
from typeset import people

pytestmark = pytest.mark.slow

DOCUMENTS = [f"chapter {n}: the senate met, the house met, the treaty of 18{n} was read\n" for n in range(40)]


@pytest.fixture(scope="module")
def scouted(tmp_path_factory):
    """What scout prints of two models with one tokenizer that guess uniformly, and of one with another."""
    torch = pytest.importorskip("torch")
    from distillaw.data.tokenizer import train_tokenizer
    from distillaw.models.fresh import build_model
    from distillaw.shapes import shape_for_params

    root = tmp_path_factory.mktemp("scout")
    (root / "text.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in DOCUMENTS))
    for name, params, vocab in (("small", 2e4, 260), ("large", 6e4, 260), ("other", 2e4, 290)):
        model = build_model(shape_for_params(params, vocab=vocab, context=32), seed=0)
        with torch.no_grad():
            model.get_output_embeddings().weight.zero_()
        model.save_pretrained(root / name)
        train_tokenizer(DOCUMENTS, vocab_size=vocab).save_pretrained(str(root / name))
    models = [root / name for name in ("small", "large", "other")]
    found = json.loads(answer("scout", *models, "--text", root / "text.jsonl", "--quiet", "--json", code=0).stdout)
    same = [row for row in found["teachers"] if not row["name"].endswith("other")]
    return found, {**found, "teachers": same}


def test_scouted_teachers_are_asked_about_as_the_command_would(open_page, planner, scouted):
    page = open_page(planner)
    page.locator("summary", has_text="Measured on your text").click()
    page.fill("#scouted", json.dumps(scouted[1], indent=2))
    assert "Taken over" in page.inner_text("[data-testid=scouted-said]")
    rows = scouted[1]["teachers"]
    for k, row in enumerate(rows):
        assert float(page.input_value(f"[data-testid=own-params-{k}]")) == row["params"]
        loss = float(page.input_value(f"[data-testid=own-loss-{k}]"))
        assert loss == pytest.approx(row["nats_per_token"], rel=1e-5)
        assert page.input_value(f"[data-testid=own-tokens-{k}]") == ""
    assert page.input_value("#vocab") == "260"
    [_, *words] = shlex.split(page.inner_text("[data-testid=command]"))
    theirs = json.loads(answer(*words, "--json").stdout)
    assert page.inner_text("[data-testid=sentence]") == f"{people(theirs['sentence'])}."


def test_what_cannot_be_taken_over_is_said(open_page, planner, scouted):
    page = open_page(planner)
    page.locator("summary", has_text="Measured on your text").click()
    command = page.inner_text("[data-testid=command]")
    for text, words in (
        (json.dumps(scouted[0]), "2 tokenizers"),
        ("model  N  bits/byte", "no JSON"),
        (json.dumps({"teachers": [{"name": "a"}]}), "no measured teachers"),
    ):
        page.fill("#scouted", text)
        assert words in page.inner_text("[data-testid=scouted-said]")
    assert page.inner_text("[data-testid=command]") == command
