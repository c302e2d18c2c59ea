"""Look at images through their embeddings: neighbors, duplicates, outliers, clusters and a map."""
