"""Settings dataclasses that validate their values on construction."""
