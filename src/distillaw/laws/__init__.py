"""The equations; numpy only."""
