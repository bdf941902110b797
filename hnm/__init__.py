"""The algorithm: encoder, aggregator, mining, fine-tuning, and the round loop that ties them together."""
