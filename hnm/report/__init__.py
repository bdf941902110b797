"""What a person looks at: pages, pictures, heatmaps."""
