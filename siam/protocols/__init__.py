"""What a trained encoder is worth."""
