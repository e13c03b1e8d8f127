"""What the benchmarks share: rounds in turns, made-up batches, and the two sides that are measured."""
