"""Teacher-student detectors: training with labelled and unlabelled images."""
