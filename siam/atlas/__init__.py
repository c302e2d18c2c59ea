"""Look at images through their embeddings: neighbors, duplicates, outliers, clusters, a map and its page."""
