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
