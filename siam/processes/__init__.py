"""Training one run in several processes: starting them, connecting them, and what they exchange."""
