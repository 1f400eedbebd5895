"""From runs to a law with honest intervals; numpy and scipy, no torch."""
