"""Published outcomes of distillation: who won, by how much, with what sizes, tokens and recipe (docs/outcomes.md)."""
