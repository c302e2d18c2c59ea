"""Feature extraction and measures of the features."""
