"""Real-world degradation (Real-ESRGAN), independent of any network."""
