"""Training and evaluating: the step, the loops, the runner, hooks, checkpoints, several processes."""
