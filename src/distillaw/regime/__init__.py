"""Large-batch training: ghost batch normalisation, learning-rate rules, noise scale, advice."""
