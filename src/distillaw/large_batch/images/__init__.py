"""The large-batch paper's experiments on images: Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741), as studies."""
