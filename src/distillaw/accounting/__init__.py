"""Parameters and FLOPs from shapes; numpy only."""
