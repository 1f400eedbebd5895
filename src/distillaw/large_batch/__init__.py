"""Large batches: rules of the rate, published laws, noise scale, ghost batch norm, branch test; images: the paper."""
