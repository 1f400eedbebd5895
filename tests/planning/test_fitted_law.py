"""A study's own fitted law in a plan: never in another count of parameters than the plan's."""

from dataclasses import replace

from synthetic_study import write_study

from distillaw.fitting.api import fit
from distillaw.planning.api import plan
from distillaw.runs.record import read_study


def test_a_law_of_total_parameters_has_no_say(tmp_path):
    write_study(tmp_path)
    law = fit(tmp_path, family="distillation-reduced", bootstrap=50, check=False)
    said = {}
    for convention in ("non-embedding", "total"):
        provenance = {**law.provenance, "params_convention": convention}
        replace(law, provenance=provenance).save(tmp_path / "laws" / "distillation-reduced.json")
        record = read_study(tmp_path)
        params, tokens = record.target
        verdict = plan(params, student_tokens=tokens, study=record)
        said[convention] = str(verdict.to_json())
    assert "counts total parameters" in said["total"] and "counts total" not in said["non-embedding"]
