"""Extract features and measure their quality."""
