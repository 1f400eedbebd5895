"""Text to tokens: corpora, tokenizers, token shards with a manifest, and the batch order."""
