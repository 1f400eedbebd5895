"""Teacher targets on disk: estimators, encoding, shards, builder, reader. Reading needs no torch."""
