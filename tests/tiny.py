"""What the tiny runs and studies of several tests have in common: a text and models that train in seconds."""

DATA = """
[data]
vocab_size = 300
validation_documents = 20
validation_tokens_per_document = 96
max_document_chars = 800
[training]
context = 32
warmup_tokens = 512
"""
"""The [data] and [training] tables of a tiny TOML file; further keys of [training] may follow."""


def study_text(name: str, tables: str, *, tuning: str = "enabled = false", batch: int = 192) -> str:
    """The file of a study on that text: `tables` are its students, teachers and what else it has."""
    return f"""
name = "{name}"
batch_tokens = {batch}
peak_lr = 0.01
{DATA}[tuning]
{tuning}
{tables}"""


STUDY = study_text(
    "tiny",
    """[students]
params = ["0.03M", "0.05M"]
tokens = ["4k", "8k"]
[[teachers]]
params = "0.05M"
tokens = "8k"
[[replicates]]
params = "0.03M"
seeds = 2
tokens = ["4k"]
[target]
params = "0.03M"
tokens = "8k"
""",
)
"""A study small enough to be run many times: 25k-parameter models on a few thousand tokens of the speeches."""

RUN = (
    """
params = "0.03M"
tokens = {tokens}
peak_lr = 0.01
batch_tokens = 64
"""
    + DATA
)
"""A file of `distillaw train` but for its name, to be formatted with the tokens."""
