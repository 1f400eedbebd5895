"""What a finished model is worth: calibration, benchmarks, judged chat, candidate teachers; no model is made here."""
