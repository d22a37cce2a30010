"""Search spaces for sweeps."""
