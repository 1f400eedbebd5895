"""The equations: supervised loss, distilled student loss, capacity gap; numpy only."""
