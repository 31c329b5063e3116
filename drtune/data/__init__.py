"""From images on disk or on the network to seeded batches."""
